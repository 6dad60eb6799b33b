//! Arguments of `import`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # what a backup script has left, by the dates in the names
  lastgood import --time-from-name /old/backup_*.tar.gz
  # one archive, of another directory and at another time
  lastgood import shop.zip --data /srv/app --at 2025-01-15T14:30:00Z
  # only a part of what the archives hold
  lastgood import backup.tar --folder srv/app

.tar, .tar.gz, .tar.zst and .zip are read. An imported snapshot is older than every one that was taken of the data itself, whatever \
its time, and the newest one only where there is no other. What was imported before is passed over. One that cannot be imported keeps no \
other from being imported; the exit code is 3 then.")]
pub struct ImportArgs {
    /// The archives
    #[arg(required = true, value_name = "ARCHIVE")]
    pub archives: Vec<PathBuf>,
    /// The directory that they are backups of [env: LASTGOOD_DATA] [default: ./data; /app/data inside Cloud Run]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The time of the archive, 2025-01-15T14:30:00Z, or its day, in UTC [default: its file's modification time]
    #[arg(long, value_name = "TIME", conflicts_with = "time_from_name")]
    pub at: Option<String>,
    /// Take the times from the files' names: 20250115_143022, 2025-01-15T14-30-22 or 2025-01-15, in UTC, or seconds since 1970
    #[arg(long)]
    pub time_from_name: bool,
    /// The folder in the archives that holds the data [default: one with the directory's name that holds all, else the top]
    #[arg(long, value_name = "PATH")]
    pub folder: Option<OsString>,
    /// The app that the data belongs to [env: LASTGOOD_SERVICE] [default: a service's K_SERVICE, RENDER_SERVICE_NAME or
    /// FLY_APP_NAME]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Where the archives are unpacked, one after the other [default: $TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Make the vault if there is none yet; ./backups is made even without this
    #[arg(long)]
    pub init: bool,
}
