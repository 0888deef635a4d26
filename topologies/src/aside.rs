//! Files that are written beside the place where they are to appear whole.

use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

/// A file in `folder`, with the permissions that any other new file gets. Its name begins with `prefix`, until it is given its own.
pub(crate) fn new_file(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}
