#!/usr/bin/env python3
"""Times two builds of lastgood against each other, by turns: before and after a change.

usage: pairs.py WORK BEFORE AFTER [--kinds app,files,sqlite] [--pairs N]

WORK holds app/, files/ and sqlite/ as make_data.py makes them; only copies of them are changed, in WORK/pairs, which is removed at
the end. Each program has a copy and a vault of its own. In each pair the program that begins changes. Prints, for each step, the
medians of wall and CPU seconds and of the ratios after / before of the pairs.
"""

import argparse
import os
import pathlib
import random
import shutil
import sqlite3
import statistics
import subprocess
import time

QUIET = 40  # seconds after which files that were written count as unchanged


def timed(*command):
    """Runs a command until its files are on the disk; returns wall and CPU seconds."""
    began, before = time.monotonic(), os.times()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.sync()
    now = os.times()
    cpu = now.children_user + now.children_system - before.children_user - before.children_system
    return time.monotonic() - began, cpu


def change(kind, data, seed):
    """Makes the change that peers.py makes: the same in both copies."""
    chance = random.Random(seed)
    if kind == "app":
        log = max(data.rglob("*.csv"), key=lambda path: path.stat().st_size)
        with log.open("ab") as file:
            file.write(chance.randbytes(4 << 20).hex().encode())
    elif kind == "files":
        files = sorted(path for path in data.rglob("*") if path.is_file())
        for path in chance.sample(files, len(files) // 100):
            path.write_bytes(path.read_bytes() + b"\n")
    else:
        database = next(path for path in data.rglob("*") if path.is_file() and path.open("rb").read(15) == b"SQLite format 3")
        with sqlite3.connect(database) as connection:
            (table,) = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
            (column,) = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if not row[5]][:1]
            (top,) = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()
            rows = [(row,) for row in chance.sample(range(1, top + 1), 2000)]
            connection.executemany(f"UPDATE {table} SET {column} = {column} || 'x' WHERE rowid = ?", rows)
        connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--kinds", default="app,files,sqlite")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    programs = {"before": args.before.resolve(), "after": args.after.resolve()}
    scratch = args.work / "pairs"
    print("| | wall | CPU | before: wall s, CPU s | after: wall s, CPU s |\n|---|---|---|---|---|")
    for kind in args.kinds.split(","):
        scratch.mkdir()
        try:
            measure(kind, args.work / kind, scratch, programs, args.pairs)
        finally:
            shutil.rmtree(scratch)


def measure(kind, source, scratch, programs, pairs):
    for name in programs:
        shutil.copytree(source, scratch / name, symlinks=True)
    time.sleep(QUIET)
    steps = {}

    def pair(step, nth, command):
        order = list(programs) if nth % 2 else list(reversed(programs))
        steps.setdefault(step, []).append({name: timed(*command(name, programs[name])) for name in order})

    for nth in range(pairs):
        for name in programs:
            shutil.rmtree(scratch / f"vault-{name}", ignore_errors=True)
        if nth == 0:  # whoever comes first would read from the disk for both
            for path in scratch.rglob("*"):
                path.is_file() and path.read_bytes()
        vault = lambda name: ("--vault", scratch / f"vault-{name}")
        for name, program in programs.items():
            timed(program, "init", *vault(name))
        backup = lambda name, program: (program, "backup", scratch / name, *vault(name))
        pair("first backup", nth, backup)
        pair("nothing changed", nth, backup)
        for name in programs:
            change(kind, scratch / name, nth)
        os.sync()
        pair("a small change", nth, backup)
        pair("restore", nth, lambda name, program: (program, "restore", scratch / f"restored-{name}", *vault(name)))
        pair("verify --read-data", nth, lambda name, program: (program, "verify", "--read-data", *vault(name)))
        for name in programs:
            shutil.rmtree(scratch / f"restored-{name}")
        time.sleep(QUIET)
    for step, runs in steps.items():
        ratios = [statistics.median(run["after"][n] / run["before"][n] for run in runs) for n in (0, 1)]
        medians = {name: [statistics.median(run[name][n] for run in runs) for n in (0, 1)] for name in programs}
        cells = [f"{medians[name][0]:.2f}, {medians[name][1]:.2f}" for name in ("before", "after")]
        print(f"| `{kind}`: {step} ({len(runs)} pairs) | {ratios[0]:.2f} | {ratios[1]:.2f} | {cells[0]} | {cells[1]} |", flush=True)


main()
