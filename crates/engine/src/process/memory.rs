//! The memory of a process.

/// Private memory in bytes: anonymous, shared and swapped pages, but not pages mapped from files, which can be read
/// again. `None` if the system does not report it.
#[cfg(target_os = "linux")]
pub(super) fn private_bytes(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(in_status(&text))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn private_bytes(_: u32) -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
fn in_status(text: &str) -> u64 {
    let counts = |line: &&str| {
        ["RssAnon:", "RssShmem:", "VmSwap:"].iter().any(|name| line.starts_with(name))
    };
    let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    text.lines()
        .filter(counts)
        .filter_map(kilobytes)
        .fold(0, u64::saturating_add)
        .saturating_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_as_well_does_not_count() {
        let text = "Name:\tx\nVmRSS:\t 900 kB\nRssAnon:\t 100 kB\nRssFile:\t 500 kB\n\
                    RssShmem:\t 20 kB\nVmSwap:\t 3 kB\nThreads:\t7\n";
        assert_eq!(in_status(text), 123 << 10);
        assert_eq!(in_status("RssAnon:\nVmSwap: x kB\n"), 0);
        let before = private_bytes(std::process::id()).unwrap();
        let more = vec![1_u8; 32 << 20];
        let now = private_bytes(std::process::id()).unwrap();
        assert!(now >= before + (24 << 20), "{before} {now} {}", more[7]);
        assert_eq!(private_bytes(u32::MAX), None);
    }
}
