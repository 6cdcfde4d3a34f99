// Draws a dashboard as Grafana does: with the panels of @grafana/ui, on what Prometheus answers to the dashboard's queries.
// What Grafana has around them is not drawn, nor are kinds of panels that @grafana/ui lacks, such as heatmaps.
const React = require('react');
const { createRoot } = require('react-dom/client');
const { lastValueFrom } = require('rxjs');
const data = require('@grafana/data'); // and the others by require too: imported, they would be there twice
const { initPluginTranslations } = require('@grafana/i18n');
const ui = require('@grafana/ui');
const { TableNG } = require('@grafana/ui/unstable');

const COLUMNS = 24, ROW_HEIGHT = 30, GAP = 8; // Grafana's grid
const MOST_POINTS = 500, SHORTEST_STEP = 15;
const SETTLED_MS = 1500; // panels measure themselves, then draw

const variables = (look, step) => ({
  __interval: `${step}s`,
  __interval_ms: step * 1000,
  __range: `${look.end - look.start}s`,
  __rate_interval: `${4 * SHORTEST_STEP}s`,
});

const filled = (text, values) => text.replace(/\$\{?(\w+)\}?/g, (_, name) => values[name] ?? '.*');

async function asked(path, parameters) {
  const answer = await (await fetch(`/api/v1/${path}?${new URLSearchParams(parameters)}`)).json();
  if (answer.status !== 'success') throw new Error(`${parameters.query}: ${answer.error}`);
  return answer.data.result;
}

const field = (name, type, values, more) => ({ name, type, values, config: {}, ...more });

// As Grafana's data source makes them: of a query for a table one frame, which has no columns where there is no answer.
function tableFrame({ refId }, series) {
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const columns = [
    field('Time', 'time', series.map(({ value }) => value[0] * 1000)),
    ...labels.map((label) => field(label, 'string', series.map(({ metric }) => metric[label]))),
    field(`Value #${refId}`, 'number', series.map(({ value }) => Number(value[1]))),
  ];
  return data.toDataFrame({ refId, fields: series.length ? columns : [] });
}

function seriesFrame({ refId, legendFormat }, { metric, value, values = [value] }) {
  const displayNameFromDS = legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? '');
  const times = field('Time', 'time', values.map(([at]) => at * 1000));
  const numbers = values.map(([, number]) => Number(number));
  return data.toDataFrame({
    refId, fields: [times, field('Value', 'number', numbers, { labels: metric, config: { displayNameFromDS } })],
  });
}

async function framesOf(panel, look) {
  const shortest = panel.interval === '1m' ? 60 : SHORTEST_STEP;
  const step = Math.max(shortest, Math.ceil((look.end - look.start) / MOST_POINTS));
  const span = { step, start: Math.floor(look.start / step) * step, end: Math.floor(look.end / step) * step };
  const answers = panel.targets.map(async (target) => {
    const query = filled(target.expr, variables(look, step));
    const series = target.instant
      ? await asked('query', { query, time: look.end })
      : await asked('query_range', { query, ...span });
    return target.format === 'table' ? [tableFrame(target, series)] : series.map((each) => seriesFrame(target, each));
  });
  const frames = (await Promise.all(answers)).flat();
  return lastValueFrom(data.transformDataFrame(panel.transformations ?? [], frames));
}

function put(config, path, value) {
  const [first, ...rest] = path.split('.');
  return { ...config, [first]: rest.length ? put(config[first], rest.join('.'), value) : value };
}

// Grafana applies a panel's settings with a registry of editors that is not in its libraries.
function configured({ type, fieldConfig: { defaults, overrides } }, frames, theme) {
  const color = { mode: type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  for (const each of frames.flatMap(({ fields }) => fields)) {
    const name = each.config.displayNameFromDS ?? each.name;
    const properties = overrides.filter(({ matcher }) => matcher.options === name).flatMap((one) => one.properties);
    const base = structuredClone({ color, ...defaults, custom: { ...defaults.custom }, ...each.config });
    each.config = properties.reduce((config, { id, value }) => put(config, id, value), base);
  }
  const whole = { fieldConfig: { defaults: {}, overrides: [] }, replaceVariables: (text) => text, timeZone: 'utc', theme };
  const made = data.applyFieldOverrides({ ...whole, data: frames });
  for (const each of made.flatMap(({ fields }) => fields)) {
    each.state.displayName = each.config.displayName ?? each.config.displayNameFromDS ?? each.name;
  }
  return made;
}

function Content({ panel: { type, options, fieldConfig }, frames, look, theme, ...size }) {
  if (type === 'stat') {
    const { reduceOptions, colorMode, graphMode } = options;
    const shown = data.getFieldDisplayValues({
      fieldConfig: { defaults: fieldConfig.defaults, overrides: [] },
      ...{ reduceOptions, replaceVariables: (text) => text, timeZone: 'utc', theme, data: frames },
    });
    return <ui.BigValue value={shown[0].display} textMode="value" {...{ colorMode, graphMode, theme }} {...size} />;
  }
  if (frames.every(({ length }) => length === 0)) return 'No data';
  if (type === 'table') {
    return <TableNG data={frames[0]} sortBy={options.sortBy} structureRev={1} fieldConfig={fieldConfig} {...size} />;
  }
  if (type === 'timeseries') {
    const timeRange = { from: data.dateTime(look.start * 1000), to: data.dateTime(look.end * 1000) };
    const { legend } = options;
    return <ui.TimeSeries timeZone="utc" structureRev={1} {...{ frames, timeRange, legend, options }} {...size} />;
  }
  throw new Error(`@grafana/ui has no panel of the kind ${type}`);
}

function Board({ drawn, width, look, theme }) {
  const unit = (width - GAP) / COLUMNS;
  return drawn.map(({ panel, frames }) => {
    const { x, y, w, h } = panel.gridPos;
    const size = { width: w * unit - GAP, height: h * (ROW_HEIGHT + GAP) - GAP };
    const style = { position: 'absolute', left: GAP + x * unit, top: GAP + y * (ROW_HEIGHT + GAP), ...size };
    const content = (width, height) => <Content {...{ panel, frames, look, theme, width, height }} />;
    return panel.type === 'row'
      ? <div key={panel.id} style={{ ...style, fontSize: 16, padding: 4 }}>⌄ {panel.title}</div>
      : <div key={panel.id} style={style}><ui.PanelChrome title={panel.title} {...size}>{content}</ui.PanelChrome></div>;
  });
}

// Draws these panels in the page, which has to be one of Prometheus'; look: from `start` to `end`, in seconds since 1970.
window.draw = async ({ panels, look, width, dark = false }) => {
  await initPluginTranslations('grafana', []);
  const { mergeTransformer, filterFieldsByNameTransformer, organizeFieldsTransformer } = data.standardTransformers;
  const known = [mergeTransformer, filterFieldsByNameTransformer, organizeFieldsTransformer];
  data.standardTransformersRegistry.setInit(
    () => known.map((each) => ({ id: each.id, name: each.name, transformation: async () => each })));
  const theme = data.createTheme({ colors: { mode: dark ? 'dark' : 'light' } });
  const drawn = await Promise.all(panels.map(async (panel) => (
    { panel, frames: panel.type === 'row' ? [] : configured(panel, await framesOf(panel, look), theme) })));
  document.body.replaceChildren();
  createRoot(document.body.appendChild(document.createElement('div'))).render(
    <data.ThemeContext.Provider value={theme}>
      <ui.GlobalStyles /><Board {...{ drawn, width, look, theme }} />
    </data.ThemeContext.Provider>);
  await new Promise((done) => setTimeout(done, SETTLED_MS));
};
