"""Logs prices: a line in a CSV file of the day, and a JSON file with the last price and some statistics.

Python's standard library is enough. Without PRICE_URL the prices are made up, so that it runs anywhere.
"""

import csv
import json
import os
import random
import signal
import sys
import time
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

DATA = Path(os.environ.get("LASTGOOD_DATA", "data"))
EVERY = float(os.environ.get("PRICE_EVERY", "1"))
URL = os.environ.get("PRICE_URL")
STATE = DATA / "state.json"


def price(last):
    """Asks for the price; PRICE_URL answers with JSON that has a number `price`."""
    if not URL:
        return round(max(1.0, last + random.gauss(0, last / 1000)), 2)
    with urllib.request.urlopen(URL, timeout=10) as answer:
        return float(json.load(answer)["price"])


def load():
    """Goes on where the last run ended."""
    if STATE.exists():
        return json.loads(STATE.read_text())
    return {"count": 0, "last": 40000.0, "highest": 0.0}


def append(now, value):
    """Adds a line, and makes it durable."""
    path = DATA / f"prices-{now:%Y-%m-%d}.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["time", "price"])
        writer.writerow([now.isoformat(timespec="milliseconds"), value])
        file.flush()
        os.fsync(file.fileno())


def save(state):
    """Replaces the state in one step: a reader finds the old one or the new one, never half of it."""
    temporary = STATE.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(STATE)


def main():
    DATA.mkdir(parents=True, exist_ok=True)
    state = load()
    print(f"going on after {state['count']} prices", flush=True)
    # SIGTERM ends it between two prices.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        now = datetime.now(timezone.utc)
        try:
            value = price(state["last"])
        except (OSError, ValueError, KeyError) as why:
            # `--critical-on 'ERROR no price'` has lastgood take a snapshot after five of these within a minute.
            print(f"ERROR no price: {why}", file=sys.stderr, flush=True)
        else:
            append(now, value)
            state = {
                "count": state["count"] + 1,
                "last": value,
                "highest": max(state["highest"], value),
                "time": now.isoformat(timespec="milliseconds"),
            }
            save(state)
        time.sleep(EVERY)


if __name__ == "__main__":
    main()
