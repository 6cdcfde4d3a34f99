#!/bin/sh
# migrate.sh: start all batches as one run of the group "migration".
. ./migration.sh
run=$(knock-exporter group open migration --operations "$(ls batches | wc -l)")
echo "$run" > run
start_missing
knock-exporter group close migration --run "$run"
