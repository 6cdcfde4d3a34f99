"""Values that cannot work: refused in words. Helm 3 and 4 run the same templates, but word a schema differently."""

from __future__ import annotations

import pytest
from charts import CHART, ID, SHORTEST, each_line, helm, of_kind, rendered

from exporter.cli import flags

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "environments: none. Set environments.NAME.apiKeySecret"),
        (("--set", "environments.production.rate_limit=5"), "environments.production.apiKeySecret: missing"),
        ((*SHORTEST, "--set", "environments.production.apiKeyRemoteRef.key=x"), "apiKeySecret and apiKeyRemoteRef"),
        (("--set", "environments.production.apiKeyRemoteRef.key=x"), "externalSecrets.secretStoreRef.name: missing"),
        ((*SHORTEST, "--set", "registration.tokens[0].secretKey=t"), "registration.tokens[0]: needs either secretName"),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[0].environments={prod}"),
            "registration.tokens[0].environments: prod is none of environments (production)",
        ),
        ((*SHORTEST, "--set", "web.configSecret=a,web.configRemoteRef.key=b"), "web: configSecret and configRemoteRef"),
        ((*SHORTEST, "--set", "maintenance=true"), "maintenance without persistence"),
        ((*SHORTEST, "--set", "split=environment,ingress.enabled=true"), "web.externalUrl: missing"),
        ((*SHORTEST, "--set", "ingress.enabled=true,ingress.path=/knock"), "web.externalUrl: missing"),
        (
            (*SHORTEST, "--set", "web.externalUrl=https://k.example,ingress.enabled=true,ingress.path=/knock"),
            "ingress.path: /knock, but web.externalUrl has the path /.",
        ),
        (
            (*SHORTEST, "--set", "split=environment,web.externalUrl=https://k,environments.metrics.apiKeySecret=k"),
            "web.externalUrl: the pages would be at /metrics, which the exporter has for itself",
        ),
        ((*SHORTEST, "--set", "web.externalUrl=https://k/api/v1"), "web.externalUrl: the pages would be at /api/v1"),
        (
            (*SHORTEST, "--set", "environments.production.proxy=http://user:hunter2@proxy:3128"),
            "environments.production.proxy: has a user and a password",
        ),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[1].secretName=t"),
            "registration.tokens[1]: the same token as registration.tokens[0]",
        ),
        ((*SHORTEST, "--set", "persistence.existingClaim=c"), "persistence.existingClaim without persistence.enabled"),
        (
            (*SHORTEST, "--set", "split=environment,persistence.enabled=true,persistence.existingClaim=c"),
            "persistence.existingClaim with split: environment",
        ),
        (
            (
                *SHORTEST,
                "--set",
                "persistence.enabled=true,extraEnv[0].name=KNOCK_EXPORTER_STORAGE_PATH,extraEnv[0].value=/s",
            ),
            "extraEnv: KNOCK_EXPORTER_STORAGE_PATH is set by persistence.enabled",
        ),
        ((*SHORTEST, "--set", "podLabels.knock-exporter/workload=a"), "podLabels: knock-exporter/workload is set"),
        ((*SHORTEST, "--set", "commonLabels.helm\\.sh/chart=a"), "commonLabels: helm.sh/chart is set by the chart"),
        (
            (*SHORTEST, "--set", "service.labels.knock-exporter/workload=a"),
            "service.labels: knock-exporter/workload is",
        ),
        (
            (*SHORTEST, "--set", "extraPodConfigs.containers[0].name=a"),
            "extraPodConfigs.containers: is set by the chart",
        ),
        ((*SHORTEST, "--set", "networkPolicy.enabled=true"), "networkPolicy.fromPrometheus: none"),
        ((*SHORTEST, "--set", "extraArgs={--web.telemetry-path=/m}"), "extraArgs: --web.telemetry-path"),
        (
            (*SHORTEST, "--set", "extraEnv[0].name=KNOCK_EXPORTER_WEB_TELEMETRY_PATH,extraEnv[0].value=/m"),
            "extraEnv: KNOCK_EXPORTER_WEB_TELEMETRY_PATH",
        ),
        (
            (*SHORTEST, "--set", "persistence.enabled=true,extraArgs={--storage.path=/x}"),
            "extraArgs: --storage.path is set by persistence.enabled",
        ),
        (
            (
                *SHORTEST,
                *("--set", "ciliumNetworkPolicy.enabled=true,networkPolicy.enabled=true"),
                *("--set-json", 'networkPolicy.fromPrometheus=[{"podSelector":{}}]'),
                *("--set-json", 'networkPolicy.extraEgress=[{"ports":[{"port":3128}]}]'),
            ),
            "networkPolicy.extraEgress with ciliumNetworkPolicy.enabled",
        ),
        (
            (*SHORTEST, "--set-json", 'registration.tokens=[{"secretName":"t","environments":["all","production"]}]'),
            "registration.tokens[0].environments: all stands for every environment",
        ),
        (
            (
                *SHORTEST,
                "--set-json",
                'registration.tokens=[{"secretName":"t"},{"secretName":"t","secretKey":"token"}]',
            ),
            "registration.tokens[1]: the same token as registration.tokens[0]",
        ),
        (
            (*SHORTEST, "--set", "split=environment,environments.a_b.apiKeySecret=x,environments.a-b.apiKeySecret=x"),
            "environments.a_b: cannot name a workload",
        ),
        ((*SHORTEST, "--set", "httpRoute.enabled=true"), "httpRoute.parentRefs: none"),
        ((*SHORTEST, "--set", "serviceMonitor.enabled=true,podMonitor.enabled=true"), "scrape everything twice"),
        (
            (*SHORTEST, "--set", "split=environment,environments._.apiKeySecret=x"),
            "environments._: cannot name a workload",
        ),
        (
            (*SHORTEST, "--set", "environments.all.apiKeySecret=x"),
            "environments.all: is not a valid name",
        ),
        (
            (*SHORTEST, "--set", "environments.Eu.apiKeySecret=x"),
            "environments.Eu: is not a valid name",
        ),
        (
            (
                *SHORTEST,
                "--set",
                f"environments.production.operations[0].id={ID},environments.production.operations[0].labels.team=a",
            ),
            "environments.production.operations[0].labels.team: is not declared. Add it to config.labels.",
        ),
        (
            (
                *SHORTEST,
                "--set",
                "environments.production.proxy=http://proxy:3128,environments.production.proxy_from_environment=true",
            ),
            "environments.production: proxy and proxy_from_environment. Keep one.",
        ),
        (
            (*SHORTEST, "--set", "extraEnv[0].name=https_proxy,extraEnv[0].value=http://proxy:3128"),
            "extraEnv: https_proxy is read by no environment",
        ),
        (
            (
                *SHORTEST,
                "--set",
                (
                    "environments.production.proxy_from_environment=true,"
                    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://user:hunter2@proxy:3128"
                ),
            ),
            "extraEnv: HTTPS_PROXY has a user and a password",
        ),
        (
            (
                *SHORTEST,
                "--set",
                (
                    "ingress.enabled=true,networkPolicy.enabled=true,"
                    "networkPolicy.fromPrometheus[0].podSelector.matchLabels.a=b"
                ),
            ),
            "networkPolicy.fromClients: none",
        ),
        (
            (*SHORTEST, "--set", "web.configSecret=w,podMonitor.enabled=true"),
            "podMonitor: has neither scheme: https nor basicAuth",
        ),
        (
            (*SHORTEST, "--set", "ingress.enabled=true,ingress.hosts={k.example},ingress.path=/knock"),
            "as in https://k.example/knock.",
        ),
        ((*SHORTEST, "--set", "web.healthPort=10187"), "web.healthPort: the same as web.port"),
        ((*SHORTEST, "--set", "registration.tokens[0].secretName=t"), "registration.tokens without persistence"),
        (
            (*SHORTEST, "--set", "environments.production.groups[0].name=nightly"),
            "environments.production.groups without persistence",
        ),
    ],
)
def test_wrong_values_are_refused_in_words(args: tuple[str, ...], complaint: str) -> None:
    done = helm(4, "template", "release", CHART, *args)
    assert done.returncode != 0
    assert complaint in done.stderr


# What the schema refuses, where it says so, and a word of it: all at once, as Helm then tells all.
BY_SCHEMA = (
    ("--set", "splt=environment", "", "splt"),
    ("--set", "environments.production.ratelimit=5", "/environments/production", "ratelimit"),
    ("--set", "config.retenton=5d", "/config", "retenton"),
    ("--set", "service.prt=80", "/service", "prt"),
    ("--set", "serviceMonitor.honourLabels=true", "/serviceMonitor", "honourLabels"),
    ("--set", "extraManifests[0].kind=ConfigMap", "", "extraManifests"),
    ("--set", "web.externalUrl=https://k.example/?a=b", "/web/externalUrl", "pattern"),
    ("--set", "config.timeout=", "/config/timeout", "1"),
    ("--set", "environments.production.ca_file=~/ca.pem", "/environments/production/ca_file", "pattern"),
    (
        *("--set", "environments.production.operations_files={~/ids.txt}"),
        *("/environments/production/operations_files/0", "pattern"),
    ),
    (
        *("--set-json", 'registration.tokens[0]={"secretName":"t","environments":[]}'),
        *("/registration/tokens/0/environments", "1"),
    ),
    (
        *("--set", "registration.tokens[1].secretName=u,registration.tokens[1].environments={a,a}"),
        *("/registration/tokens/1/environments", "items"),
    ),
    ("--set", "podLabels.a=true", "/podLabels/a", "string"),
    ("--set", "networkPolicy.privateRanges[0]=nonsense", "/networkPolicy/privateRanges/0", "pattern"),
    ("--set", "networkPolicy.privateRanges[1]=999.1.1.1/8", "/networkPolicy/privateRanges/1", "pattern"),
    ("--set", "terminationGracePeriodSeconds=null", "", "terminationGracePeriodSeconds"),
    ("--set", "ingress=null", "", "ingress"),
    ("--set", "web.port=null", "/web", "port"),
    ("--set-json", "ciliumNetworkPolicy.fqdns=[]", "/ciliumNetworkPolicy/fqdns", "1"),
    ("--set-json", "ciliumNetworkPolicy.dnsEndpoints=[]", "/ciliumNetworkPolicy/dnsEndpoints", "1"),
    ("--set", "httpRoute.hostnames={https://a b/c}", "/httpRoute/hostnames/0", "pattern"),
    ("--set", "prometheusRule.thresholds.group_error_ratio=5", "/prometheusRule/thresholds/group_error_ratio", "1"),
    ("--set", "prometheusRule.disabled={KnockTypo}", "/prometheusRule/disabled/0", "KnockOperationFailed"),
    ("--set", "prometheusRule.thresholds.staled_seconds=5", "/prometheusRule/thresholds", "staled_seconds"),
    ("--set", "prometheusRule.thresholds.runbooks=https://a b", "/prometheusRule/thresholds/runbooks", "pattern"),
    ("--set", "prometheusRule.thresholds.remembered=0d", "/prometheusRule/thresholds/remembered", "pattern"),
)


@each_line
def test_what_the_schema_refuses_is_told_with_its_place(line: int) -> None:
    args = [word for flag, value, *_ in BY_SCHEMA for word in (flag, value)]
    done = helm(line, "template", "release", CHART, *SHORTEST, *args)
    assert done.returncode != 0
    told = [each.strip() for each in done.stderr.splitlines()]
    for *_, place, word in BY_SCHEMA:
        head = f"- at '{place}': " if line == 4 else f"- {place[1:].replace('/', '.') or '(root)'}: "
        assert any(each.startswith(head) and word in each.removeprefix(head) for each in told), (place, told)


@pytest.mark.parametrize(
    "release", ["my.knock", "1knock", "0", "knock-exporter.2", "a.release-name-that-has-to-be-cut-off"]
)
def test_a_release_name_that_cannot_name_a_service_is_refused(release: str) -> None:
    done = helm(4, "template", release, CHART, *SHORTEST)
    assert done.returncode != 0
    assert f"release name: {release} would make a Service named" in done.stderr
    assert "set fullnameOverride" in done.stderr
    named = rendered(4, *SHORTEST, "--set", "fullnameOverride=knock", release=release)
    assert {each["metadata"]["name"] for each in of_kind(named, "Service")} == {"knock"}


@pytest.mark.parametrize(
    "args",
    [
        # Both lists of peers are one rule.
        (
            *("--set", "networkPolicy.enabled=true,ingress.enabled=true"),
            *("--set-json", 'networkPolicy.fromPrometheus=[{"podSelector":{}}]'),
        ),
        ("--set", "ingress.enabled=true,web.externalUrl=https://portal.example/knock"),
        ("--set", "networkPolicy.fromClients=null,prometheusRule.enabled=true,prometheusRule.thresholds=null"),
        ("--set", "serviceMonitor.enabled=true,serviceMonitor.interval=1m30s"),
        ("--set", "web.configSecret=w,podMonitor.enabled=true,podMonitor.scheme=https"),
        ("--set", "environments.production.groups[0].name=nightly,extraArgs={--storage.path=/mine/state.db}"),
        # Fields of a later Kubernetes.
        (
            "--set",
            "resources.claims[0].name=gpu,securityContext.later=true,tolerations[0].later=1,livenessProbe.later=1",
        ),
    ],
)
def test_what_works_is_let_through(args: tuple[str, ...]) -> None:
    assert of_kind(rendered(4, *SHORTEST, *args), "Deployment")


def test_registrations_without_persistence_can_be_accepted() -> None:
    accepted = "registration.acceptLossWithoutPersistence=true"
    made = rendered(4, *SHORTEST, "--set", "registration.tokens[0].secretName=t", "--set", accepted)
    assert of_kind(made, "Deployment")


@pytest.mark.parametrize("taken", [*flags.TAKEN, "/metrics/"])
def test_an_external_url_that_the_exporter_refuses_is_refused_here(taken: str) -> None:
    done = helm(4, "template", "release", CHART, *SHORTEST, "--set", f"web.externalUrl=https://k.example{taken}")
    assert f"web.externalUrl: the pages would be at {taken.rstrip('/')}" in done.stderr
