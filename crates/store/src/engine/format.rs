//! The `FORMAT` file of a data directory: which version of the layout its bytes have.
//!
//! It is the first thing written into a new directory, durably, and the first thing read at open.
//! A directory without it that holds anything else is somebody else's, and is refused.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::engine::EngineError;

/// The version that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the file.
pub const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NAME: &str = "isthmus data ";
/// A valid file is far shorter.
const FORMAT_BYTES_MAX: u64 = 64;

/// Makes the directory if needed, and checks or writes its `FORMAT`.
pub fn prepare(directory: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(directory).map_err(|error| failed("create", directory, &error))?;
    let path = directory.join(FORMAT_FILE);
    match fs::metadata(&path) {
        Ok(found) if found.len() <= FORMAT_BYTES_MAX => {
            let text = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
            check(directory, &text)
        }
        Ok(_) => check(directory, b""),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(directory),
        Err(error) => Err(failed("read", &path, &error)),
    }
}

fn check(directory: &Path, text: &[u8]) -> Result<(), EngineError> {
    let version = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.strip_suffix('\n'))
        .and_then(|text| text.strip_prefix(FORMAT_NAME))
        .and_then(|version| version.parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(version) if version > FORMAT_VERSION => Err(refused(
            directory,
            format!(
                "its format {version} is newer than {FORMAT_VERSION}, the newest this program \
                 reads: use the program that wrote it, or a later one"
            ),
        )),
        Some(version) => Err(refused(directory, format!("format {version} was never released"))),
        None => Err(refused(
            directory,
            format!(
                "its file {FORMAT_FILE} is damaged: restore the directory from a backup, or \
                 start with an empty one and copy from another region"
            ),
        )),
    }
}

fn create(directory: &Path) -> Result<(), EngineError> {
    let mut entries = fs::read_dir(directory).map_err(|error| failed("list", directory, &error))?;
    let temporary = format!("{FORMAT_FILE}.new");
    let foreign = entries.any(|entry| entry.is_ok_and(|e| e.file_name() != temporary.as_str()));
    if foreign {
        return Err(refused(
            directory,
            format!(
                "it is not empty and has no file {FORMAT_FILE}, so it is not a data directory: \
                 name an empty or a new one"
            ),
        ));
    }
    write_durably(directory, &temporary).map_err(|error| failed("write", directory, &error))
}

/// Written aside, synced, renamed and the directory synced, so that it is whole or not there.
fn write_durably(directory: &Path, temporary: &str) -> io::Result<()> {
    let aside = directory.join(temporary);
    let mut file = fs::File::create(&aside)?;
    writeln!(file, "{FORMAT_NAME}{FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&aside, directory.join(FORMAT_FILE))?;
    fs::File::open(directory)?.sync_all()
}

fn refused(directory: &Path, reason: String) -> EngineError {
    EngineError::Format { path: directory.to_path_buf(), reason }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<(), EngineError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn new_directory_gets_a_format_and_is_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        prepare(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join(FORMAT_FILE)).unwrap(), "isthmus data 1\n");
        prepare(&path).unwrap();
    }

    #[test]
    fn newer_and_damaged_formats_and_foreign_directories_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join(FORMAT_FILE), "isthmus data 2\n").unwrap();
        assert!(message(prepare(path)).contains("newer"));
        for damaged in ["", "isthmus data 1", "isthmus data x\n", &"a".repeat(100)] {
            fs::write(path.join(FORMAT_FILE), damaged).unwrap();
            assert!(message(prepare(path)).contains("damaged"), "{damaged:?}");
        }
        fs::remove_file(path.join(FORMAT_FILE)).unwrap();
        fs::write(path.join("letters.txt"), "mine").unwrap();
        assert!(message(prepare(path)).contains("not empty"));
    }

    #[test]
    fn interrupted_start_is_taken_up_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("FORMAT.new"), "isth").unwrap();
        prepare(directory.path()).unwrap();
    }
}
