#!/usr/bin/env python3
"""Runs lastgood and its peers on the same work, in turn, and prints a table and JSON.

usage: peers.py WORK [--tools a,b,...] [--kinds app,files,sqlite] [--runs N] [--lastgood BIN] [--json FILE]

WORK holds app/, files/ and sqlite/ as make_data.py makes them; the script changes only copies of them, in a folder that it
makes in the folder SCRATCH (by default the system's temporary folder), and removes at the end.
For each tool and kind: a first backup, the same again (nothing changed), one after a small change, a restore of the newest.
Every command is followed by `sync -f` on what it wrote, inside the timing: the figures are those of data on disk.
Figures: wall s, cpu s, peak memory MiB (largest process), bytes that the repository grew by.

restic and borg come from Debian (`apt install restic borgbackup`), rustic and conserve from
`cargo install --root $PEERS/cargo rustic-rs conserve`, where PEERS is by default `peers` in the system's temporary folder.
`tarzstd` is `tar | zstd -3 -T0`, the nearest thing to the physical limit.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
P = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
P.add_argument("work"); P.add_argument("--tools", default="tarzstd,restic,rustic,borg,conserve,lastgood")
P.add_argument("--kinds", default="app,files,sqlite"); P.add_argument("--runs", type=int, default=1)
P.add_argument("--lastgood", default="target/release/lastgood"); P.add_argument("--json")
A = P.parse_args()
PEERS = os.environ.get("PEERS", tempfile.gettempdir() + "/peers")
os.makedirs(PEERS, exist_ok=True)
ENV = dict(os.environ, RESTIC_PASSWORD="x", RUSTIC_PASSWORD="x", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
           RESTIC_CACHE_DIR=PEERS + "/rcache", BORG_BASE_DIR=PEERS + "/borgbase")
BIN = PEERS + "/cargo/bin"
BORG = "borg"

def tools(repo, data, out):
    n = str(time.time_ns())
    L = A.lastgood
    return {
      "tarzstd": dict(init=None, backup=["sh","-c",f"mkdir -p {repo}; tar -C {data} -cf - . | zstd -q -3 -T0 -o {repo}/{n}.tar.zst"],
                      restore=["sh","-c",f"mkdir -p {out}; zstd -q -dc $(ls -t {repo}/*.tar.zst | head -1) | tar -C {out} -xf -"]),
      "restic": dict(init=["restic","-q","-r",repo,"init"], backup=["restic","-q","-r",repo,"backup",data],
                     restore=["restic","-q","-r",repo,"restore","latest","--target",out]),
      "rustic": dict(init=[f"{BIN}/rustic","--log-level","error","-r",repo,"init"],
                     backup=[f"{BIN}/rustic","--log-level","error","--no-progress","-r",repo,"backup",data],
                     restore=[f"{BIN}/rustic","--log-level","error","--no-progress","-r",repo,"restore","latest",out]),
      "borg": dict(init=[BORG,"init","-e","none",repo], backup=[BORG,"create","-C","zstd,3",f"{repo}::{n}",data],
                   restore=["sh","-c",f"mkdir -p {out}; cd {out}; {BORG} extract {repo}::$({BORG} list --short --last 1 {repo})"]),
      "conserve": dict(init=[f"{BIN}/conserve","init",repo], backup=[f"{BIN}/conserve","backup","--no-progress",repo,data],
                     restore=[f"{BIN}/conserve","restore","--no-progress",repo,out]),
      "lastgood": dict(init=None, backup=[L,"backup",data,"--init","--vault",repo], restore=[L,"restore",out,"--vault",repo]),
    }

def size(path):
    total = 0
    for d, _, fs in os.walk(path):
        for f in fs:
            total += os.lstat(os.path.join(d, f)).st_size
    return total

def run(argv, wrote):
    subprocess.run(["sync"])
    argv = ["sh", "-c", '"$@" && sync -f "$0"', wrote, *argv]
    t = time.time()
    pid = os.fork()
    if pid == 0:
        dn = os.open("/dev/null", os.O_RDWR); os.dup2(dn, 0); os.dup2(dn, 1)
        er = os.open(PEERS + "/err.log", os.O_CREAT|os.O_TRUNC|os.O_WRONLY); os.dup2(er, 2)
        os.execvpe(argv[0], argv, ENV)
    _, status, ru = os.wait4(pid, 0)
    wall = time.time() - t
    if status:
        print("FAILED", argv, open(PEERS + "/err.log").read()[-400:], file=sys.stderr)
        return None
    return dict(wall=wall, cpu=ru.ru_utime + ru.ru_stime, rss=ru.ru_maxrss / 1024)

CHANGE = {"app": "append", "files": "touch", "sqlite": "update"}
rows = []
scratch = tempfile.mkdtemp(prefix="peers-", dir=os.environ.get("SCRATCH"))
for kind in A.kinds.split(","):
    for rep in range(A.runs):
        base = f"{scratch}/{kind}"
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run(["cp","-a",f"{A.work}/{kind}",base], check=True)
        names = A.tools.split(",")
        def step(name, what):
            repo, out = f"{scratch}/repo-{name}", f"{scratch}/out-{name}"
            t = tools(repo, base, out)[name]
            if what == "first":
                shutil.rmtree(repo, ignore_errors=True)
                if t["init"]: subprocess.run(t["init"], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before = size(repo) if os.path.exists(repo) else 0
            if what == "restore":
                shutil.rmtree(out, ignore_errors=True)
                r = run(t["restore"], out)
                shutil.rmtree(out, ignore_errors=True)
            else:
                r = run(t["backup"], repo)
            if r:
                r.update(kind=kind, tool=name, step=what, grew=(size(repo) - before), rep=rep)
                rows.append(r); print(f"{kind:7} {what:8} {name:9} wall {r['wall']:7.2f}  cpu {r['cpu']:7.2f}  rss {r['rss']:7.0f} MiB  grew {r['grew']/1e6:9.2f} MB", flush=True)
        for n in names: step(n, "first")
        for n in names: step(n, "same")
        subprocess.run([f"{HERE}/make_data.py", CHANGE[kind], base], check=True)
        for n in names: step(n, "change")
        for n in names: step(n, "restore")
        for n in names: shutil.rmtree(f"{scratch}/repo-{n}", ignore_errors=True)
        shutil.rmtree(base)
if A.json: json.dump(rows, open(A.json, "w"))
shutil.rmtree(scratch)
