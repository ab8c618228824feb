//! Matches stop strings across token borders.

/// Matches stop strings and holds back text that may be the start of one.
#[derive(Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    /// Text that might be the start of a stop string.
    held: String,
}

/// Result of adding text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing matched.
    Continue,
    /// The stop string with this index matched; nothing after it counts.
    Matched(usize),
}

impl StopMatcher {
    /// A matcher for `stops`, none of which is empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// The stop string with this index.
    pub(crate) fn stop(&self, index: usize) -> &str {
        &self.stops[index]
    }

    /// Adds text and appends its safe prefix to `out`: what cannot belong to a stop string.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> Verdict {
        if self.stops.is_empty() {
            out.push_str(text);
            return Verdict::Continue;
        }
        self.held.push_str(text);
        if let Some((at, index)) = self.earliest_match() {
            out.push_str(&self.held[..at]);
            self.held.clear();
            return Verdict::Matched(index);
        }
        let keep = self.longest_partial();
        let release = self.held.len() - keep;
        out.push_str(&self.held[..release]);
        self.held.drain(..release);
        Verdict::Continue
    }

    /// Flushes held text: the answer ended, or stop strings do not count yet.
    pub(crate) fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Whether text is held back.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Start and index of the earliest match; the longest of those that start there.
    fn earliest_match(&self) -> Option<(usize, usize)> {
        self.stops
            .iter()
            .enumerate()
            .filter_map(|(index, stop)| Some((self.held.find(stop.as_str())?, index)))
            .min_by_key(|&(at, index)| (at, usize::MAX - self.stops[index].len()))
    }

    /// Length of the longest suffix of `held` that is a prefix of a stop string.
    fn longest_partial(&self) -> usize {
        let longest_stop = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest_stop.saturating_sub(1));
        self.held
            .char_indices()
            .map(|(at, _)| at)
            .filter(|&at| at >= from)
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(stops: &[&str], chunks: &[&str]) -> (Vec<String>, Verdict) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut outs = Vec::new();
        for chunk in chunks {
            let mut out = String::new();
            let verdict = matcher.push(chunk, &mut out);
            outs.push(out);
            if verdict != Verdict::Continue {
                return (outs, verdict);
            }
        }
        let mut out = String::new();
        matcher.flush(&mut out);
        outs.push(out);
        (outs, Verdict::Continue)
    }

    #[test]
    fn a_stop_over_several_chunks_never_leaks() {
        let (outs, verdict) = feed(&["END"], &["abE", "N", "Dxyz"]);
        assert_eq!(outs, ["ab", "", ""]);
        assert_eq!(verdict, Verdict::Matched(0));
    }

    #[test]
    fn a_false_start_is_let_through() {
        let (outs, verdict) = feed(&["END"], &["aEN", "ENx"]);
        assert_eq!(outs, ["a", "ENENx", ""]);
        assert_eq!(verdict, Verdict::Continue);
    }

    #[test]
    fn the_earliest_stop_wins_and_then_the_longest() {
        assert_eq!(feed(&["b", "ab"], &["xab"]).1, Verdict::Matched(1));
        assert_eq!(feed(&["a", "ab"], &["xab"]).1, Verdict::Matched(1));
    }

    #[test]
    fn held_text_comes_out_at_the_end() {
        assert_eq!(feed(&["\n\n"], &["a\n"]).0, ["a", "\n"]);
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(text in "[abc]{0,30}", stop in "[abc]{1,4}") {
            let whole = text.split_once(stop.as_str());
            let chunks: Vec<String> = text.chars().map(String::from).collect();
            let refs: Vec<&str> = chunks.iter().map(String::as_str).collect();
            let (outs, verdict) = feed(&[&stop], &refs);
            match whole {
                Some((before, _)) => {
                    prop_assert_eq!(outs.concat(), before);
                    prop_assert_eq!(verdict, Verdict::Matched(0));
                }
                None => prop_assert_eq!(outs.concat(), text),
            }
        }
    }
}
