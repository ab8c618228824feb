//! Files of costs: read with suspicion, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use forebay_engine::LearnedCosts;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of what files hold.
pub(super) const FORMAT: u32 = 1;
/// The largest file that is read, in bytes. One that we write has up to 50 kB.
const MAX_BYTES: u64 = 1 << 20;
/// The most files in the directory; those that were written longest ago are removed first.
const MAX_FILES: usize = 64;
/// Length of the names that `identity` returns, in hexadecimal digits.
const NAME_DIGITS: usize = 32;

#[derive(Serialize, Deserialize)]
struct CostFile {
    format: u32,
    version: String,
    costs: LearnedCosts,
}

/// The costs in a file; none if there is no file.
///
/// # Errors
/// Why the file is not used.
pub(super) fn read(path: &Path) -> Result<LearnedCosts, String> {
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LearnedCosts::default()),
        about => about.map_err(|error| error.to_string())?,
    };
    // Opening a pipe may block forever.
    if !about.is_file() || about.len() > MAX_BYTES {
        return Err("it is too large, or no file".to_owned());
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let content: CostFile = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if content.format != FORMAT || content.version != env!("CARGO_PKG_VERSION") {
        return Err("it is of another version".to_owned());
    }
    Ok(content.costs.plausible())
}

/// Puts costs into a file in place of what is there. Makes its folder.
///
/// # Errors
/// When the file cannot be written; what was there before stays.
pub(super) fn write(path: &Path, costs: &LearnedCosts) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let text = serde_json::to_vec(&CostFile { format: FORMAT, version, costs: costs.clone() })?;
    let new = !path.exists();
    // Other servers may use the directory, from containers in which all have the same process id.
    let part = path.with_extension(format!("{}.part", Uuid::new_v4().simple()));
    let written = write_new(&part, &text).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // It may not exist.
        drop(fs::remove_file(&part));
    } else if new {
        remove_oldest(folder);
    }
    written
}

/// Writes a file that only its owner can read.
fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Removes the oldest files if there are too many.
fn remove_oldest(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| is_ours(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(MAX_FILES);
    for (_, path) in files.into_iter().take(surplus) {
        // Another server may have removed it.
        drop(fs::remove_file(path));
    }
}

/// Whether a file's name is one that we give.
fn is_ours(name: &str) -> bool {
    let (stem, end) = name.split_once('.').unwrap_or((name, ""));
    let is_hex = stem.len() == NAME_DIGITS && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex && (end == "json" || end.ends_with(".part"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use forebay_engine::CallSample;

    use super::*;
    use crate::kept_costs::tests::Folder;

    fn costs() -> LearnedCosts {
        let sample = |tokens| CallSample { tokens, depth: 7, seconds: f64::from(tokens) / 8.0 };
        LearnedCosts { rows: (1..9).map(sample).collect(), ..LearnedCosts::default() }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = Folder::new("costs-written");
        let path = folder.path().join("a/costs/x.json");
        assert_eq!(read(&path), Ok(LearnedCosts::default()));
        for _ in 0..2 {
            write(&path, &costs()).unwrap();
            assert_eq!(read(&path), Ok(costs()));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_not_used() {
        let folder = Folder::new("costs-nonsense");
        let path = folder.path().join("x.json");
        write(&path, &costs()).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let long = format!("{good}{}", " ".repeat(1 << 20));
        let other = [
            good.replace("\"format\":1", "\"format\":2"),
            good.replace("\"version\":\"", "\"version\":\"9"),
            good.replace("0.125", "1e999"),
            good[..good.len() / 2].to_owned(),
            String::new(),
            "\0\u{fffd}".to_owned(),
            "[".repeat(100_000),
            long,
        ];
        for text in other {
            fs::write(&path, &text).unwrap();
            assert!(read(&path).is_err(), "{text:.50}");
        }
        fs::write(&path, good.replace("\"seconds\":0.125", "\"seconds\":-0.125")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 7);
        assert!(read(folder.path()).is_err());
        // A folder is in its place.
        let taken = folder.path().join("y.json");
        fs::create_dir(&taken).unwrap();
        assert!(write(&taken, &costs()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn files_do_not_pile_up() {
        let folder = Folder::new("costs-pile");
        let path = |number: usize| folder.path().join(format!("{number:032x}.json"));
        let others = folder.path().join("notes.json");
        fs::write(&others, "{}").unwrap();
        for number in 0..MAX_FILES {
            write(&path(number), &costs()).unwrap();
            let age = std::time::Duration::from_secs(60 * (1 + number as u64));
            File::open(path(number)).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        write(&path(MAX_FILES), &costs()).unwrap();
        let is_there: Vec<bool> = (0..=MAX_FILES).map(|number| path(number).exists()).collect();
        let expected: Vec<bool> = (0..=MAX_FILES).map(|number| number != MAX_FILES - 1).collect();
        assert_eq!(is_there, expected, "the oldest goes");
        assert!(others.exists());
    }
}
