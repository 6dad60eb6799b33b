#!/usr/bin/env bash
# Makes the sample vault of the current format: make.sh LASTGOOD FOLDER. Once a format is released its sample stays as it is.
set -euo pipefail
lastgood=$(realpath "$1") vault=$(realpath -m "$2")
data=$(mktemp -d)/data
mkdir -p "$data/logs" "$data/empty folder" && cd "$data"
printf 'id,price\n1,60000.5\n' > prices.csv
ln prices.csv 'logs/linked.csv'
ln -s ../prices.csv logs/latest
mkfifo pipe
printf '\0' > $'name \xff \\ with\nall'
for n in $(seq 40000); do echo "$n a line of a log that is long enough for several blocks"; done > logs/app.log
truncate -s 3M sparse && printf 'island' | dd of=sparse bs=1 seek=1500000 conv=notrunc status=none
chmod 0700 'empty folder'; chmod 0640 prices.csv; chmod 4755 pipe
find . -exec touch -h -d '2026-01-02T03:04:05.678901234Z' {} +
"$lastgood" backup "$data" --vault "$vault" --label made=sample -q
{ echo 'a line before all others'; cat logs/app.log; } > logs/app.new && mv logs/app.new logs/app.log
rm 'logs/linked.csv'
echo new > added.txt
find . -newermt 2026-02-01 -exec touch -h -d '2026-01-03T00:00:00Z' {} +
"$lastgood" backup "$data" --vault "$vault" --reason schedule -q
