//! The identity of costs: a model file, a machine, the settings that change them, and this program.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use forebay_engine::ModelConfig;
use uuid::Uuid;

/// Bytes of a model file's head that identify it: most of its metadata is there.
const HEAD_BYTES: u64 = 64 << 10;
/// The most bytes that are read of /proc/cpuinfo: the first processor is enough.
const CPUINFO_BYTES: u64 = 16 << 10;

/// A name for all that a model's costs depend on; `None` if the model's file cannot be read.
pub(super) fn of(config: &ModelConfig) -> Option<String> {
    let model = model_file(config.source.path()?).ok()?;
    Some(name(&[&program(), &model, &settings(config), &machine()]))
}

fn name(parts: &[&str]) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, parts.join("\n").as_bytes()).simple().to_string()
}

/// The format of files, the program's version, and what it was built for.
fn program() -> String {
    let built_for = [
        cfg!(feature = "cuda"),
        cfg!(feature = "vulkan"),
        cfg!(feature = "rocm"),
        cfg!(feature = "metal"),
        cfg!(feature = "dynamic-backends"),
    ];
    format!("{} {} {built_for:?}", super::file::FORMAT, env!("CARGO_PKG_VERSION"))
}

/// The file's name, its size, and a hash of its head.
fn model_file(path: &Path) -> io::Result<String> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    let head = Uuid::new_v5(&Uuid::NAMESPACE_OID, &head);
    Ok(format!("{:?} {} {head}", path.file_name().unwrap_or_default(), about.len()))
}

/// The settings that change what calls cost.
fn settings(config: &ModelConfig) -> String {
    let ModelConfig {
        kind,
        ctx_size,
        kv_layout,
        long_slot,
        parallel,
        batch_size,
        ubatch_size,
        threads,
        gpu,
        kv_type,
        flash_attention,
        mmap,
        reproducible,
        name: _,
        source: _,
        kv_host_bytes: _,
        itl_target: _,
        pooling: _,
        speculate: _,
        queue: _,
        queue_tokens: _,
        queue_timeout: _,
        unread_bytes: _,
        memory_limit: _,
        step_limit: _,
        costs: _,
    } = config;
    // The type's name in the files of 0.1.0.
    let gpu = format!("{gpu:?}").replacen("GpuSettings", "Gpu", 1);
    let sizes = (ctx_size, parallel, batch_size, ubatch_size, threads);
    format!(
        "{kind:?} {kv_layout:?} {long_slot} {sizes:?} {gpu} {kv_type:?} {flash_attention:?} {mmap} {reproducible}"
    )
}

/// The processor, the number of its cores that this process may use, and the graphics devices.
fn machine() -> String {
    let mut out = processor(&read_head("/proc/cpuinfo", CPUINFO_BYTES).unwrap_or_default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let devices = graphics_devices(Path::new("/sys/bus/pci/devices"));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} {cores} {}", std::env::consts::ARCH, devices.join(" "));
    out
}

/// The first `most` bytes of a text file.
fn read_head(path: impl AsRef<Path>, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines that name a processor, of the first one.
fn processor(cpuinfo: &str) -> String {
    const NAMES: [&str; 4] = ["model name", "CPU implementer", "CPU part", "CPU variant"];
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let named = first.lines().filter(|line| NAMES.iter().any(|name| line.starts_with(name)));
    named.fold(String::new(), |all, line| all + line + "\n")
}

/// Vendor and device numbers of what PCI calls display controllers and processing accelerators.
fn graphics_devices(folder: &Path) -> Vec<String> {
    let value = |path: &Path, name: &str| read_head(path.join(name), 64).unwrap_or_default();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut devices: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let class = value(path, "class");
            class.starts_with("0x03") || class.starts_with("0x12")
        })
        .map(|path| format!("{}:{}", value(&path, "vendor").trim(), value(&path, "device").trim()))
        .collect();
    devices.sort();
    devices
}

#[cfg(test)]
mod tests {
    use forebay_engine::Source;

    use super::*;
    use crate::kept_costs::tests::Folder;

    #[test]
    fn the_first_processors_name_is_found() {
        let two = "processor: 0\nmodel name\t: X 1\nMHz: 5\n\nprocessor: 1\nmodel name\t: Y\n";
        assert_eq!(processor(two), "model name\t: X 1\n");
        assert_eq!(processor("processor: 0\nCPU part: 0xd0c\n"), "CPU part: 0xd0c\n");
        assert_eq!(processor(""), "");
    }

    #[test]
    fn it_follows_the_file_and_the_settings() {
        let folder = Folder::new("identity");
        let (a, b) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
        let config = |path: &Path| ModelConfig::new("m", Source::Gguf(path.to_owned()));
        assert_eq!(of(&config(&a)), None);
        assert_eq!(of(&config(folder.path())), None);
        fs::write(&a, "one").unwrap();
        fs::write(&b, "one").unwrap();
        let first = of(&config(&a)).unwrap();
        assert_eq!(of(&config(&a)), Some(first.clone()));
        assert_eq!(first.len(), 32);
        let others = [
            config(&b),
            ModelConfig { parallel: 5, ..config(&a) },
            ModelConfig { threads: Some(3), ..config(&a) },
            ModelConfig { reproducible: true, ..config(&a) },
            ModelConfig { kv_type: forebay_engine::KvType::Q8_0, ..config(&a) },
        ];
        for other in others {
            assert_ne!(of(&other).unwrap(), first, "{other:?}");
        }
        // Neither changes what a call costs.
        let same = ModelConfig { queue: 1, name: "x".to_owned(), ..config(&a) };
        assert_eq!(of(&same), Some(first.clone()));
        fs::write(&a, "two").unwrap();
        assert_ne!(of(&config(&a)).unwrap(), first);
    }
}
