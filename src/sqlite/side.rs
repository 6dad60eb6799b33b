//! Files beside a database, by what the system says of them.
