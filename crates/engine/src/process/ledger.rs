//! What a child was asked and has not done: enough to ask the next one, and to find out which request
//! it is that kills them.
//!
//! After a first death all go on together. Those that two deaths have in common are tried one at a
//! time, and nobody else runs meanwhile; one that gets on is innocent, and waits for the others to be
//! tried. A third death is one's own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::message::{Command, Embed, Generate, Grown, News, Report, Said, What};
use crate::request::Failure;

/// Deaths after which a request is tried alone, and after which it is given up.
const SUSPICIOUS: u8 = 2;
const GUILTY: u8 = 3;
/// Tokens after which a request that was there when a child died is innocent of it.
const INNOCENT: u32 = 16;

/// The requests of one engine that are not over, by number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<u64, Entry>,
    /// Those that were cancelled and that the child has not forgotten.
    leaving: BTreeMap<u64, Report>,
}

/// A request and what came of it.
#[derive(Debug)]
struct Entry {
    request: Request,
    place: Place,
    /// How many children died while they computed it, since it last got on.
    deaths: u8,
    /// Tokens that came from this child.
    progress: u32,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Here alone.
    Waits,
    /// In the child.
    Sent,
    /// In the child, which is to forget it: it is innocent, and others are to be tried.
    Withdrawn,
}

#[derive(Debug)]
enum Request {
    Text(Box<Generate>, Started),
    Vectors(Box<Embed>),
}

/// Whether a request's reader knows that it has left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Started(bool);

/// What follows from what happened.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// For the child.
    pub(super) ask: Vec<Command>,
    /// For those who wait.
    pub(super) tell: Vec<Report>,
    /// Requests that were given up because they kill.
    pub(super) guilty: Vec<u64>,
}

impl Ledger {
    /// Takes note of what is asked.
    pub(super) fn ask(&mut self, command: Command) -> Outcome {
        match command {
            Command::Generate(mut generate) => {
                let choices = generate.request.choices as usize;
                generate.said.resize_with(choices, || Some(Said::default()));
                self.insert(generate.id, Request::Text(generate, Started(false)))
            }
            Command::Embed(embed) => self.insert(embed.id, Request::Vectors(embed)),
            Command::Cancel(id) => self.cancel(id),
            Command::Close => Outcome { ask: vec![Command::Close], ..Outcome::default() },
        }
    }

    fn insert(&mut self, id: u64, request: Request) -> Outcome {
        self.open.insert(id, Entry { request, place: Place::Waits, deaths: 0, progress: 0 });
        Outcome { ask: self.due(), ..Outcome::default() }
    }

    fn cancel(&mut self, id: u64) -> Outcome {
        let Some(entry) = self.open.remove(&id) else { return Outcome::default() };
        let dropped = match entry.request {
            Request::Text(..) => over(id, What::Dropped),
            Request::Vectors(_) => Report::Dropped(id),
        };
        let mut outcome = Outcome::default();
        match entry.place {
            Place::Waits => outcome.tell.push(dropped),
            Place::Sent => {
                outcome.ask.push(Command::Cancel(id));
                self.leaving.insert(id, dropped);
            }
            Place::Withdrawn => drop(self.leaving.insert(id, dropped)),
        }
        outcome.ask.extend(self.due());
        outcome
    }

    /// Takes note of what the child says.
    pub(super) fn hear(&mut self, report: Report) -> Outcome {
        let mut outcome = Outcome::default();
        match report {
            Report::News(mut news) => {
                news.retain(|news| self.is_news(news));
                outcome.tell.push(Report::News(news));
                if self.tries() {
                    outcome.ask.extend(self.withdraw());
                }
            }
            Report::Vectors { id, .. } | Report::Dropped(id) => {
                self.open.remove(&id);
                self.leaving.remove(&id);
                outcome.tell.push(report);
            }
        }
        outcome.ask.extend(self.due());
        outcome
    }

    /// Takes back whoever was tried and has got on.
    fn withdraw(&mut self) -> Option<Command> {
        let innocent = |entry: &Entry| entry.place == Place::Sent && entry.deaths < SUSPICIOUS;
        let (id, entry) = self.open.iter_mut().find(|(_, entry)| innocent(entry))?;
        entry.place = Place::Withdrawn;
        Some(Command::Cancel(*id))
    }

    fn is_news(&mut self, news: &News) -> bool {
        let Some(entry) = self.open.get_mut(&news.id) else {
            // Of one that was cancelled only its end is of interest.
            return news.last && self.leaving.remove(&news.id).is_some();
        };
        if entry.place == Place::Withdrawn && news.what == What::Dropped {
            entry.place = Place::Waits;
            return false;
        }
        let is_new = entry.hear(&news.what);
        if news.last {
            self.open.remove(&news.id);
        }
        is_new
    }

    /// Takes note of a child's death, which computed these requests; `None` where none of them can have
    /// to do with it.
    pub(super) fn died(&mut self, computing: Option<&[u64]>) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.tell.extend(std::mem::take(&mut self.leaving).into_values());
        for (id, entry) in &mut self.open {
            let place = std::mem::replace(&mut entry.place, Place::Waits);
            entry.progress = 0;
            // What is in a pass of vectors is not known.
            let vectors = matches!(entry.request, Request::Vectors(_));
            let suspect = |ids: &[u64]| vectors || ids.contains(id);
            if place != Place::Waits && computing.is_some_and(suspect) {
                entry.deaths += 1;
            }
        }
        let guilty = self.open.iter().filter(|(_, entry)| entry.deaths >= GUILTY);
        outcome.guilty = guilty.map(|(id, _)| *id).collect();
        for &id in &outcome.guilty {
            let failure = Failure::Crashed;
            outcome.tell.extend(self.open.remove(&id).map(|entry| match entry.request {
                Request::Text(..) => over(id, What::Failed(failure)),
                Request::Vectors(_) => Report::Vectors { id, vectors: Err(failure) },
            }));
        }
        outcome
    }

    /// Whether somebody is being tried, so that nothing else may run that could kill.
    pub(super) fn tries(&self) -> bool {
        self.open.values().any(|entry| entry.deaths >= SUSPICIOUS)
    }

    /// What the child is to be asked now, in the order in which it came.
    pub(super) fn due(&mut self) -> Vec<Command> {
        if self.open.values().any(|entry| entry.place == Place::Withdrawn) {
            return Vec::new();
        }
        let suspect = self.open.values_mut().find(|entry| entry.deaths >= SUSPICIOUS);
        match suspect {
            Some(suspect) if suspect.place == Place::Sent => Vec::new(),
            Some(suspect) => vec![suspect.send()],
            None => {
                let waiting = self.open.values_mut().filter(|e| e.place == Place::Waits);
                waiting.map(Entry::send).collect()
            }
        }
    }
}

impl Entry {
    fn send(&mut self) -> Command {
        self.place = Place::Sent;
        match &self.request {
            Request::Text(generate, _) => Command::Generate(generate.clone()),
            Request::Vectors(embed) => Command::Embed(embed.clone()),
        }
    }

    /// Takes note of news. Whether its reader does not know them yet.
    fn hear(&mut self, what: &What) -> bool {
        let Request::Text(generate, started) = &mut self.request else { return true };
        match what {
            What::Started { .. } => return !std::mem::replace(started, Started(true)).0,
            What::Prompt(_) => return generate.request.prompt_logprobs.take().is_some(),
            What::Grew(grown) => {
                self.progress += 1;
                if self.progress >= INNOCENT {
                    self.deaths = 0;
                }
                grow(&mut generate.said, grown);
            }
            What::Finished { choice, .. } => {
                if let Some(said) = generate.said.get_mut(*choice as usize) {
                    *said = None;
                }
            }
            What::Failed(_) | What::Dropped => {}
        }
        true
    }
}

fn grow(said: &mut [Option<Said>], grown: &Grown) {
    let Some(Some(said)) = said.get_mut(grown.choice as usize) else { return };
    // An answer can end without a further token.
    if grown.tokens as usize > said.tokens.len() {
        said.tokens.push(grown.token);
    }
    said.draws = grown.draws;
    said.held.clone_from(&grown.held);
}

/// The last news about a request for text.
fn over(id: u64, what: What) -> Report {
    Report::News(vec![News { id, after: Duration::ZERO, what, last: true }])
}

#[cfg(test)]
mod tests;
