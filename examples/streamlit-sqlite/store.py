"""The notes of the app, in SQLite."""

import os
import sqlite3
from pathlib import Path

DATA = Path(os.environ.get("LASTGOOD_DATA", "data"))


def connect():
    """Opens the database, and makes it if it is not there."""
    DATA.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(DATA / "notes.db", timeout=10)
    # Writers and lastgood do not wait for each other in this mode.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, made TEXT DEFAULT CURRENT_TIMESTAMP, text TEXT NOT NULL)"
    )
    return connection


def add(connection, text):
    """Adds a note; when this returns, the note is on the disk. Returns its number."""
    with connection:
        return connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid


def newest(connection, limit=50):
    """The newest notes, first the last one."""
    return connection.execute("SELECT id, made, text FROM notes ORDER BY id DESC LIMIT ?", (limit,)).fetchall()


def count(connection):
    """How many notes there are."""
    return connection.execute("SELECT count(*) FROM notes").fetchone()[0]
