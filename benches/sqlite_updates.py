#!/usr/bin/env python3
"""What small changes to a large SQLite database cost lastgood, backup after backup.

usage: sqlite_updates.py DATABASE WORK [--updates 100] [--bin target/release] [--rounds 3]

DATABASE is the one that `make_data.py sqlite` makes; it is copied. WORK is an empty or missing folder on a disk with room for
five times the database. Before every backup 1 % of the rows' pages are updated at random, as `make_data.py update` does. Needs
the `zstd` command, and in the folder of --bin `lastgood` and `examples/read_and_hash`:
    cargo build --release --example read_and_hash --bin lastgood
"""
import argparse, json, os, random, shutil, sqlite3, subprocess, sys, time

def run(command):
    """Wall seconds, CPU seconds, peak memory in MiB and standard output of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = process.stdout.read()
    process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit("%s ended with status %d" % (" ".join(command), status))
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, out

def update(path, rnd):
    db = sqlite3.connect(path)
    db.execute("pragma synchronous=off")
    top, = db.execute("select max(id) from orders").fetchone()
    db.executemany("update orders set amount=? where id=?",
                   [(rnd.random() * 1e4, rnd.randrange(1, top + 1)) for _ in range(int(top * 0.01 / 13))])
    db.commit()
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()

def changed_pages(path, before):
    """How many pages differ from what `before` has, and their size under zstd -3; `before` then has them."""
    changed = []
    with open(path, "rb") as new, open(before, "r+b") as old:
        for at in range(0, os.path.getsize(path), 1 << 20):
            a, b = new.read(1 << 20), old.read(1 << 20)
            if a != b:
                for page in range(0, len(a), 4096):
                    if a[page:page + 4096] != b[page:page + 4096]:
                        changed.append(a[page:page + 4096])
                old.seek(at)
                old.write(a)
    small = subprocess.run(["zstd", "-3", "-c"], input=b"".join(changed), stdout=subprocess.PIPE, check=True).stdout
    return len(changed), len(small)

def data_content(vault):
    """Bytes of content of all data packs that the newest snapshot names."""
    newest = sorted(os.listdir(vault + "/snapshots"))[-1]
    root = json.load(open(vault + "/snapshots/" + newest))
    packs = list(root["packs"].get("items", []))
    for frame in root["packs"].get("frames", []):
        text = subprocess.run(["zstd", "-dc", "%s/index/%s.jsonl.zst" % (vault, frame["pack"])], stdout=subprocess.PIPE, check=True).stdout
        lines = text[frame["offset"]:frame["offset"] + frame["length"]].decode().splitlines()[1:]
        packs += [json.loads(line) for line in lines]
    return sum(pack["content"] for pack in packs if pack["kind"] == "data"), len(packs)

def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("database")
    options.add_argument("work")
    options.add_argument("--updates", type=int, default=100)
    options.add_argument("--bin", default="target/release")
    options.add_argument("--rounds", type=int, default=3)
    options = options.parse_args()
    lastgood, hashing = options.bin + "/lastgood", options.bin + "/examples/read_and_hash"
    os.makedirs(options.work + "/data")
    data, vault, fresh = options.work + "/data", options.work + "/vault", options.work + "/fresh"
    path, before, rnd = data + "/big.db", options.work + "/before.db", random.Random(3)
    shutil.copyfile(options.database, path)
    shutil.copyfile(options.database, before)
    size = os.path.getsize(path)

    def backup(into):
        wall, cpu, memory, out = run([lastgood, "backup", data, "--vault", into, "--json"])
        return wall, cpu, memory, json.loads(out)

    wall, cpu, peak, report = backup(vault)
    print("first backup: %.2f s, cpu %.2f s, %.1f MB sent, %.0f MiB" % (wall, cpu, report["uploaded_bytes"] / 1e6, peak))
    sent = compressed = 0
    ratios = []
    for number in range(1, options.updates + 1):
        update(path, rnd)
        pages, small = changed_pages(path, before)
        once = min(run([hashing, path])[0] for _ in range(options.rounds)) if number <= 3 else None
        wall, cpu, memory, report = backup(vault)
        sent, compressed, peak = sent + report["uploaded_bytes"], compressed + small, max(peak, memory)
        ratios.append(report["uploaded_bytes"] / small)
        if once or number % 10 == 0:
            content, packs = data_content(vault)
            text = "update %d: %d pages, %.2f MB as zstd; sent %.2f MB (%.2f times); mean so far %.2f; live share %.2f of %d packs; %.0f MiB; %.2f s" % (
                number, pages, small / 1e6, report["uploaded_bytes"] / 1e6, ratios[-1], sent / compressed, size / content, packs, memory, wall)
            print(text + (", %.2f times reading and hashing once (%.2f s)" % (wall / once, once) if once else ""), flush=True)
    print("%d updates: sent %.2f times the changed pages' zstd size; peak memory of any backup %.0f MiB" % (options.updates, sent / compressed, peak))

    backup(fresh)
    best = {}
    for _ in range(options.rounds):
        for name, source in (("fresh", fresh), ("updated", vault)):
            target = options.work + "/restored"
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run(["sync", "-f", options.work], check=True)
            wall, cpu, memory, _ = run([lastgood, "restore", target, "--vault", source, "--json"])
            print("restore, %s: %.2f s, cpu %.2f s, %.0f MiB" % (name, wall, cpu, memory), flush=True)
            best[name] = min(wall, best.get(name, wall))
            subprocess.run(["cmp", path, target + "/big.db"], check=True)
    print("restore after %d updates: %.2f times that of a first backup; restored files are equal" % (options.updates, best["updated"] / best["fresh"]))

main()
