//! Describes files beside a database by what the system says about them.
