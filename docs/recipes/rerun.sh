#!/bin/sh
# rerun.sh: start again what failed in the run of migrate.sh, and only that. Call it as often as something fails.
. ./migration.sh
run=$(cat run)
touch handled # ids of operations that failed or had errors, and were started again by an earlier call
register started/*.json # registering twice does no harm; an operation that could not be registered before is now

# The status of each operation: from the exporter if it still has the operation, otherwise from Knock.
knock-exporter list --group migration --run "$run" -o json > followed.json
jq -rn --slurpfile followed followed.json --rawfile handled handled '
    INDEX($followed[0][].id, ($handled | split("\n")[]); .) as $known | inputs.id | select($known[.] | not)' started/*.json > retired
echo '{"operations": []}' > retired.json
[ ! -s retired ] || KNOCK_EXPORTER_URL='' knock-exporter watch - -o json < retired > retired.json || [ $? -eq 1 ]
jq -n --slurpfile followed followed.json --slurpfile retired retired.json --rawfile handled handled '
    INDEX($handled | split("\n")[]; .) as $handled
    | [$followed[0][], $retired[0].operations[] | select($handled[.id] | not)]
    | {failed: map(select(.status == "failed").id), bad: map(select(.status == "failed" or .with_errors).id)}' > todo.json

# The single items that failed. If the list may not be complete, standard error says so and the exit code is 1.
jq -r '.bad[]' todo.json > bad
echo '[]' > items.json
[ ! -s bad ] || knock-exporter errors - -o json < bad > items.json || [ $? -eq 1 ]
# Items of batches that completed with errors become new batches: items-TIME-1, items-TIME-2 …
jq -cn --slurpfile todo todo.json --slurpfile items items.json '
    INDEX($todo[0].failed[]; .) as $failed
    | INDEX($items[0][] | select($failed[.operation_id] | not); .id) as $again
    | [inputs.users[] | select($again[.id])] | unique_by(.id)
    | range(0; length; 1000) as $start | {users: .[$start : $start + 1000]}' batches/*.json > again
awk -v name="batches/items-$(date +%s)" '{ print > (name "-" NR ".json") }' again
# Batches that failed as a whole start again from their file: Knock does not list which of their rows were not processed.
jq -rn --slurpfile todo todo.json '
    INDEX($todo[0].failed[]; .) as $failed | inputs | select($failed[.id]) | input_filename' started/*.json |
    while read -r answer; do rm "$answer"; done

start_missing # the failed and the new batches, and those that Knock never accepted
cat bad >> handled
[ ! -s bad ] || knock-exporter forget - < bad || echo "operations that the exporter no longer has need not be forgotten" >&2
