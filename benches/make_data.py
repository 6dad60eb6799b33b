#!/usr/bin/env python3
"""Makes the workloads that lastgood and its peers are measured on.

usage: make_data.py KIND DIR
  app     725 MB as an app leaves them: a SQLite database, CSV logs, 20,000 small JSON files, media
  files   200,000 small JSON files in 400 folders
  sqlite  one SQLite database of about 1 GiB in pages of 4 KiB
  update  DIR is what `sqlite` made: rows on about 1 % of its pages, spread at random, are updated
  append  DIR is what `app` made: 8 MiB more ticks are appended to one CSV log
  touch   DIR is what `files` made: 1 % of its files are rewritten
"""
import json
import os
import random
import sqlite3
import sys

def ticks(path, megabytes, seed):
    rnd = random.Random(seed)
    price, t, left = 60000.0, 1_700_000_000, megabytes << 20
    with open(path, "a", buffering=1 << 20) as f:
        while left > 0:
            rows = []
            for _ in range(5000):
                t += 1
                price += rnd.gauss(0, 4)
                rows.append(f"{t},{price:.2f},{rnd.random()*3:.8f},{rnd.choice(('buy','sell'))},BTC-USD\n")
            text = "".join(rows)
            f.write(text)
            left -= len(text)

# The same words on every machine.
WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3 + i % 9)) for i in range(20000)]

def database(path, megabytes, seed):
    rnd = random.Random(seed)
    db = sqlite3.connect(path)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=off")
    db.execute("create table orders(id integer primary key, customer text, note text, amount real, at integer)")
    db.execute("create index by_customer on orders(customer)")
    n = 0
    while os.path.getsize(path) < megabytes << 20:
        db.executemany("insert into orders values(null,?,?,?,?)",
            [(f"c{rnd.randrange(10**6):06d}", " ".join(rnd.choices(WORDS, k=40)), rnd.random() * 1e4, 1_700_000_000 + n + i) for i in range(20000)])
        n += 20000
        db.commit()
        db.execute("pragma wal_checkpoint(truncate)")
    db.close()

def update(path, share, seed):
    rnd = random.Random(seed)
    db = sqlite3.connect(path)
    db.execute("pragma synchronous=off")
    top, = db.execute("select max(id) from orders").fetchone()
    # about thirteen rows share a page: this many rows touch about `share` of the pages
    ids = [(rnd.random() * 1e4, rnd.randrange(1, top + 1)) for _ in range(int(top * share / 13))]
    db.executemany("update orders set amount=? where id=?", ids)
    db.commit()
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()

def main(kind, where):
    os.makedirs(where, exist_ok=True)
    rnd = random.Random(7)
    if kind == "app":
        database(f"{where}/app.db", 256, 1)
        os.makedirs(f"{where}/ticks", exist_ok=True)
        for day in range(8):
            ticks(f"{where}/ticks/2026-11-{day+1:02d}.csv", 32, day)
        for i in range(20000):
            d = f"{where}/sessions/{i % 64:02d}"
            os.makedirs(d, exist_ok=True)
            with open(f"{d}/{i:05d}.json", "w") as f:
                json.dump({"id": i, "user": rnd.choice(WORDS), "tags": rnd.choices(WORDS, k=30), "score": rnd.random()}, f)
        os.makedirs(f"{where}/media", exist_ok=True)
        for i in range(16):
            with open(f"{where}/media/{i:02d}.jpg", "wb") as f:
                f.write(rnd.randbytes(8 << 20))
    elif kind == "files":
        for i in range(200_000):
            d = f"{where}/{i % 400:03d}"
            if i < 400:
                os.makedirs(d, exist_ok=True)
            with open(f"{d}/{i:06d}.json", "w") as f:
                f.write(json.dumps({"id": i, "user": rnd.choice(WORDS), "tags": rnd.choices(WORDS, k=12)}))
    elif kind == "sqlite":
        database(f"{where}/big.db", 1024, 2)
    elif kind == "update":
        update(f"{where}/big.db", 0.01, random.randrange(10**9))
    elif kind == "append":
        ticks(f"{where}/ticks/2026-11-08.csv", 8, 99)
    elif kind == "touch":
        for i in range(0, 200_000, 100):
            with open(f"{where}/{i % 400:03d}/{i:06d}.json", "a") as f:
                f.write("\n")
    else:
        sys.exit(__doc__)

if __name__ == "__main__":
    main(*sys.argv[1:3]) if len(sys.argv) == 3 else sys.exit(__doc__)
