# shellcheck shell=sh
# migration.sh: what migrate.sh and rerun.sh share. Needs curl 7.82, jq and knock-exporter.
# Set KNOCK_API_KEY, and KNOCK_EXPORTER_URL if the exporter is not at http://127.0.0.1:10187.
set -eu
export KNOCK_EXPORTER_ENVIRONMENT=production KNOCK_EXPORTER_TOKEN_FILE=register.token
mkdir -p started

# register FILE…: register the responses of Knock in these files, each with the name of its batch as the label `batch`
register() {
    jq -c '. + {labels: {batch: (input_filename | split("/")[1] | rtrimstr(".json"))}}' "$@" |
        knock-exporter register - --group migration --run "$run"
}

# start_missing: one call to Knock for each batch that has no response yet
start_missing() {
    for file in batches/*.json; do
        batch=$(basename "$file" .json)
        [ ! -e "started/$batch.json" ] || continue
        curl -sS --fail-with-body --retry 5 "${KNOCK_BASE_URL:-https://api.knock.app}/v1/users/bulk/identify" \
            -H "Authorization: Bearer $KNOCK_API_KEY" --json "@$file" -o answer &&
            mv answer "started/$batch.json" &&
            register "started/$batch.json" || echo "batch $batch: not started, or not registered" >&2
        sleep 1 # Knock takes one such call a second
    done
}
