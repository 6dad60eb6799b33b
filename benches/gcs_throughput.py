#!/usr/bin/env python3
"""Throughput of lastgood and of `gcloud storage cp` to and from the same emulator, without and with added latency.

    benches/gcs_throughput.py FOLDER --emulator FAKE_GCS_SERVER [--megabytes 512] [--latency 30] [--rounds 3]

Makes files of random bytes (nothing compresses: all that is read is sent), starts fake-gcs-server (objects in memory) and
`target/release/examples/delaying_proxy` before it, and takes turns: gcloud, lastgood with one stream, lastgood with as many as
it takes by itself. Prints MB/s of each round and the medians. Times are of whole commands, start-up included, until `sync -f`.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing answers on port {port}")


def make_data(folder, megabytes):
    if folder.exists() and sum(f.stat().st_size for f in folder.iterdir()) == megabytes * 1_000_000:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(megabytes // 16):
        (folder / f"{number:04}.bin").write_bytes(os.urandom(16_000_000))


class Server:
    """An emulator with an empty bucket, and a proxy before it."""

    def __init__(self, emulator, latency):
        inner, self.port = free_port(), free_port()
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = [emulator, "-scheme", "http", "-host", "127.0.0.1", "-port", str(inner), "-backend", "memory",
                   "-public-host", "127.0.0.1", "-external-url", f"http://127.0.0.1:{self.port}"]
        self.processes = [subprocess.Popen(command, **quiet)]
        wait_for(inner)
        proxy = REPOSITORY / "target/release/examples/delaying_proxy"
        addresses = [f"127.0.0.1:{self.port}", f"127.0.0.1:{inner}"]
        self.processes.append(subprocess.Popen([proxy, *addresses, str(latency)], **quiet))
        wait_for(self.port)
        request = urllib.request.Request(f"http://127.0.0.1:{inner}/storage/v1/b?project=p",
                                         data=json.dumps({"name": "bench"}).encode(),
                                         headers={"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


def timed(command, env, target=None):
    begin = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if target:
        subprocess.run(["sync", "-f", target], check=True)
    seconds = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"{command} failed: {done.stderr}")
    return seconds


def one(tool, work, data, emulator, latency):
    """Seconds of an upload and of a download of `data` by a tool, on a server of its own."""
    server, out = Server(emulator, latency), work / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        env = dict(os.environ, STORAGE_EMULATOR_HOST=f"127.0.0.1:{server.port}", HOME=str(work))
        if tool == "gcloud":
            out.mkdir()
            env.update(CLOUDSDK_AUTH_DISABLE_CREDENTIALS="true", CLOUDSDK_CORE_PROJECT="p",
                       CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=f"http://127.0.0.1:{server.port}/storage/v1/",
                       CLOUDSDK_CONFIG=str(work / "gcloud"))
            up = timed(["gcloud", "storage", "cp", "-r", "-q", data, "gs://bench/"], env)
            down = timed(["gcloud", "storage", "cp", "-r", "-q", f"gs://bench/{data.name}", out], env, out)
        else:
            lastgood = [REPOSITORY / "target/release/lastgood", "--vault", "gs://bench/v", "-q", *tool]
            timed([*lastgood, "init"], env)
            up = timed([*lastgood, "backup", data], env)
            down = timed([*lastgood, "restore", out], env, out.parent)
        return up, down
    finally:
        server.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--emulator", required=True)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--latency", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data = args.folder / "data"
    make_data(data, args.megabytes)
    tools = {"gcloud storage cp": "gcloud", "lastgood --parallel 1": ["--parallel", "1"], "lastgood": []}
    for latency in (0, args.latency):
        results = {name: [] for name in tools}
        for _ in range(args.rounds):
            for name, tool in tools.items():
                results[name].append(one(tool, args.folder, data, args.emulator, latency))
        print(f"{latency} ms added latency, MB/s (median; all rounds)")
        for name, rounds in results.items():
            rates = [[args.megabytes / seconds for seconds in direction] for direction in zip(*rounds)]
            shown = [f"{statistics.median(r):6.0f}  ({', '.join(f'{x:.0f}' for x in r)})" for r in rates]
            print(f"  {name:24} up {shown[0]:32} down {shown[1]}", flush=True)


if __name__ == "__main__":
    main()
