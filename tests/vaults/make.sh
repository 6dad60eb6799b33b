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
python3 - <<'PYTHON'
import sqlite3
db = sqlite3.connect("orders.db")
db.executescript("pragma page_size=1024; create table orders(id integer primary key, note text, amount real);")
db.executemany("insert into orders values (null, ?, ?)", [("order %d " % n * 9, n / 7) for n in range(2000)])
db.commit()
PYTHON
printf 'SQLite format 3\0%1000s' 'no database, but for its first bytes' > raw.db
printf 'what no program has rolled back' > raw.db-journal
chmod 0700 'empty folder'; chmod 0640 prices.csv; chmod 4755 pipe
find . -exec touch -h -d '2026-01-02T03:04:05.678901234Z' {} +
"$lastgood" backup "$data" --vault "$vault" --label made=sample -q
{ echo 'a line before all others'; cat logs/app.log; } > logs/app.new && mv logs/app.new logs/app.log
rm 'logs/linked.csv'
python3 -c 'import sqlite3; db = sqlite3.connect("orders.db"); db.execute("update orders set amount = -1 where id % 300 = 7"); db.commit()'
echo new > added.txt
find . -newermt 2026-02-01 -exec touch -h -d '2026-01-03T00:00:00Z' {} +
"$lastgood" backup "$data" --vault "$vault" --reason schedule -q
