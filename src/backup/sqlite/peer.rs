//! Another process with a database open, for tests: locks do not bind the process that has them.
