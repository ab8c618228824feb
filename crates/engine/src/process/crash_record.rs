//! The ids of what a child is computing, which its parent reads after a crash: an unnamed file that both have open, in
//! memory on Linux.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

#[cfg(target_os = "linux")]
use rustix::fs::{MemfdFlags, memfd_create};

/// The most ids in the record; further ones are left out.
const MAX_IDS: usize = 4096;
const WORD: usize = size_of::<u64>();

/// The file of ids.
#[derive(Debug)]
pub(super) struct CrashRecord(File);

impl CrashRecord {
    pub(super) fn new() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let file = memfd_create("forebay-step", MemfdFlags::CLOEXEC)?.into();
        #[cfg(not(target_os = "linux"))]
        let file = tempfile::tempfile()?;
        Ok(Self(file))
    }

    /// The record in an inherited file.
    pub(super) fn of(file: File) -> Self {
        Self(file)
    }

    /// Another descriptor of the same file.
    pub(super) fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Writes these ids in place of the previous ones.
    pub(super) fn write(&self, ids: &mut dyn Iterator<Item = u64>, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&[0; WORD]);
        ids.take(MAX_IDS).for_each(|id| buffer.extend_from_slice(&id.to_le_bytes()));
        let count = (buffer.len() / WORD - 1) as u64;
        buffer[..WORD].copy_from_slice(&count.to_le_bytes());
        // If writing fails, a crash only has no suspects.
        drop(self.0.write_all_at(buffer, 0));
    }

    /// Removes all ids.
    pub(super) fn clear(&self) {
        self.write(&mut std::iter::empty(), &mut Vec::new());
    }

    /// The ids that were written last.
    pub(super) fn read(&self) -> Vec<u64> {
        let mut bytes = vec![0; (MAX_IDS + 1) * WORD];
        let length = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        let (words, _) = bytes[..length].as_chunks();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let count = usize::try_from(words.next().unwrap_or(0)).unwrap_or(0);
        words.take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_what_is_read() {
        let (parent, mut buffer) = (CrashRecord::new().unwrap(), Vec::new());
        assert!(parent.read().is_empty());
        let child = CrashRecord::of(parent.file().unwrap());
        child.write(&mut [7, 1, u64::MAX].into_iter(), &mut buffer);
        assert_eq!(parent.read(), [7, 1, u64::MAX]);
        child.write(&mut [3].into_iter(), &mut buffer);
        assert_eq!(parent.read(), [3]);
        child.write(&mut (0..5000), &mut buffer);
        assert_eq!(parent.read().len(), MAX_IDS);
        child.write(&mut std::iter::empty(), &mut buffer);
        assert!(parent.read().is_empty());
    }
}
