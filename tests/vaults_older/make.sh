#!/usr/bin/env bash
# What tests/vaults_older.rs backs up, and the vault of an older program beside this script.
#
#   make.sh first DATA                    writes the data directory as the first snapshot has it
#   make.sh second DATA                   changes it: everything that is in a file, and new files
#   make.sh vault LASTGOOD VAULT DATA     does both with an older program's backups: the first is a snapshot, and the second
#                                         is killed while it waits for a locked database, with a checkpoint
#
# Both the snapshot and the checkpoint have raw.db in one hunk and its journal in another, or not at all: the name raw.db-1062
# has a hash that ends a hunk. The vault here was made with a program of before d7f73ac, which did not keep a raw database and
# its journal in one hunk, and named hard-link groups by device and inode alone.
set -euo pipefail
umask 022

raw() {
    printf 'SQLite format 3\0%1000s' "the $1 state" > raw.db
    printf 'the journal of the %s state' "$1" > raw.db-journal
    echo "the $1 content under two names" > a-link
    touch -h -d "$2" raw.db raw.db-journal a-link
}

first() {
    mkdir "$1" && cd "$1"
    : > a-link && ln a-link z-link
    echo 'stays as it is' > constant
    : > raw.db-1062
    raw first '2026-01-02T03:04:05.678901234Z'
    touch -h -d '2026-01-02T03:04:05.678901234Z' constant raw.db-1062 .
}

second() {
    cd "$1"
    raw second '2026-01-03T03:04:05.678901234Z'
    python3 - <<'PYTHON'
import random, sqlite3
open("noise", "wb").write(random.Random(1).getrandbits(8 * 8000).to_bytes(8000, "big"))
db = sqlite3.connect("raw.db-locked.db")
db.executescript("create table orders(id integer primary key, note text); insert into orders values (1, 'one');")
PYTHON
    # A large file: the entries before it are handed on, and secured in a checkpoint.
    truncate -s 1M raw.db-2
    echo 'is new after the checkpoint' > zz
    touch -h -d '2026-01-03T03:04:05.678901234Z' noise raw.db-2 raw.db-locked.db zz .
}

case "$1" in
first | second) "$1" "$2" ;;
vault)
    lastgood=$(realpath "$2") vault=$(realpath -m "$3") data=$(realpath -m "$4")
    (first "$data")
    "$lastgood" backup "$data" --vault "$vault" -q
    (second "$data")
    cd "$data"
    python3 - "$lastgood" backup "$data" --vault "$vault" -q --checkpoint-every 1ms --busy-timeout 60s <<'PYTHON'
import glob, sqlite3, subprocess, sys, time
db = sqlite3.connect("raw.db-locked.db", isolation_level=None)
db.execute("begin exclusive")
backup = subprocess.Popen(sys.argv[1:])
ends = time.time() + 20
while not glob.glob(sys.argv[5] + "/checkpoints/*") and time.time() < ends:
    time.sleep(0.01)
time.sleep(1)
backup.kill()
backup.wait()
PYTHON
    ls "$vault"/checkpoints/*
    rm -rf "$vault"/tmp "$vault"/runs
    ;;
esac
