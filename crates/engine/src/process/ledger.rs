//! What a child was asked and has not done: enough to ask the next one, and to find out which request
//! it is that kills them.
//!
//! After a first death all go on together. Those that two deaths have in common are tried one at a
//! time, and nobody else runs meanwhile; one that gets on is innocent, and waits for the others to be
//! tried. A third death is one's own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Question, ToChild};
use crate::message::{Command, Embed, Generate, Grown, News, Report, Said, What};
use crate::request::Failure;

/// Deaths after which a request is tried alone, and after which it is given up.
const SUSPICIOUS: u8 = 2;
const GUILTY: u8 = 3;
/// Tokens after which a request that was there when a child died is innocent of it.
const INNOCENT: u32 = 16;

/// The requests and questions of one engine that are not over, by number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<u64, Entry>,
    /// Those that were cancelled and that the child has not forgotten.
    leaving: BTreeMap<u64, Report>,
    /// Whether a child is there that takes what is asked.
    child: bool,
    /// Whether somebody may be to blame for deaths, so that one runs at a time.
    trying: bool,
    /// The longest that a request may wait.
    queue_timeout: Option<Duration>,
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
    Text {
        generate: Box<Generate>,
        /// Whether its reader knows that it has left the queue.
        started: bool,
    },
    Vectors(Box<Embed>),
    Question {
        question: Question,
        patient: bool,
    },
}

/// What follows from what happened.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// For the child.
    pub(super) ask: Vec<ToChild>,
    /// For those who wait.
    pub(super) tell: Vec<Report>,
    /// Requests and questions that were given up because they kill.
    pub(super) guilty: Vec<u64>,
}

impl Ledger {
    pub(super) fn new(queue_timeout: Option<Duration>) -> Self {
        Self { queue_timeout, ..Self::default() }
    }

    /// Whether nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes note of what is asked.
    pub(super) fn ask(&mut self, command: Command) -> Outcome {
        match command {
            Command::Generate(mut generate) => {
                let choices = generate.request.choices as usize;
                generate.said.resize_with(choices, || Some(Said::default()));
                self.insert(generate.id, Request::Text { generate, started: false })
            }
            Command::Embed(embed) => self.insert(embed.id, Request::Vectors(embed)),
            Command::Cancel(id) => self.cancel(id),
            Command::Close => {
                let ask = self.child.then_some(ToChild::Ask(Command::Close));
                Outcome { ask: ask.into_iter().collect(), ..Outcome::default() }
            }
        }
    }

    /// Takes note of a question, whose number no request has.
    pub(super) fn question(&mut self, id: u64, question: Question, patient: bool) -> Outcome {
        self.insert(id, Request::Question { question, patient })
    }

    fn insert(&mut self, id: u64, request: Request) -> Outcome {
        let mut entry = Entry { request, place: Place::Waits, deaths: 0, progress: 0 };
        let mut outcome = Outcome::default();
        if self.child && !self.trying {
            outcome.ask.push(entry.send(id));
        }
        self.open.insert(id, entry);
        outcome
    }

    fn cancel(&mut self, id: u64) -> Outcome {
        let Some(entry) = self.open.remove(&id) else { return Outcome::default() };
        let mut outcome = Outcome::default();
        let Some(dropped) = entry.request.dropped(id) else { return outcome };
        match entry.place {
            Place::Waits => outcome.tell.push(dropped),
            Place::Sent => {
                outcome.ask.push(ToChild::Ask(Command::Cancel(id)));
                self.leaving.insert(id, dropped);
            }
            Place::Withdrawn => drop(self.leaving.insert(id, dropped)),
        }
        outcome.ask.extend(self.due());
        outcome
    }

    /// Fails the requests whose time is up: for while there is no child that would.
    pub(super) fn reap(&mut self, now: Instant) -> Outcome {
        let overdue = |(id, entry): (&u64, &Entry)| {
            entry.request.overdue(self.queue_timeout, now).map(|failure| (*id, failure))
        };
        let overdue: Vec<(u64, Failure)> = self.open.iter().filter_map(overdue).collect();
        let mut outcome = Outcome::default();
        for (id, failure) in overdue {
            outcome.tell.extend(self.open.get(&id).and_then(|e| e.request.failed(id, failure)));
            outcome.ask.extend(self.cancel(id).ask);
        }
        outcome
    }

    /// Takes note of what the child says.
    pub(super) fn hear(&mut self, report: Report) -> Outcome {
        let mut outcome = Outcome::default();
        match report {
            Report::News(mut news) => {
                news.retain(|news| self.is_news(news));
                outcome.tell.push(Report::News(news));
            }
            Report::Vectors { id, .. } | Report::Dropped(id) => {
                self.open.remove(&id);
                self.leaving.remove(&id);
                outcome.tell.push(report);
            }
        }
        outcome.ask = self.try_others();
        outcome
    }

    /// Takes note of an answer to a question.
    pub(super) fn answered(&mut self, id: u64) -> Outcome {
        self.open.remove(&id);
        Outcome { ask: self.try_others(), ..Outcome::default() }
    }

    /// Where requests are tried: goes on to the next one when this one has got on.
    fn try_others(&mut self) -> Vec<ToChild> {
        if !self.trying {
            return Vec::new();
        }
        self.withdraw().into_iter().chain(self.due()).collect()
    }

    /// Takes back whoever was tried and has got on.
    fn withdraw(&mut self) -> Option<ToChild> {
        if !self.open.values().any(|entry| entry.deaths >= SUSPICIOUS) {
            return None;
        }
        let innocent = |entry: &Entry| entry.place == Place::Sent && entry.deaths < SUSPICIOUS;
        let (id, entry) = self.open.iter_mut().find(|(_, entry)| innocent(entry))?;
        entry.place = Place::Withdrawn;
        Some(ToChild::Ask(Command::Cancel(*id)))
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

    /// Takes note of a child that takes what is asked, and asks it.
    pub(super) fn loaded(&mut self) -> Outcome {
        self.child = true;
        Outcome { ask: self.due(), ..Outcome::default() }
    }

    /// Takes note of a child's death, which computed these requests and questions.
    pub(super) fn died(&mut self, computing: &[u64]) -> Outcome {
        self.child = false;
        let mut outcome = Outcome::default();
        outcome.tell.extend(std::mem::take(&mut self.leaving).into_values());
        let computing: BTreeSet<u64> = computing.iter().copied().collect();
        let was_there = |(id, entry): (&u64, &Entry)| (entry.place != Place::Waits).then_some(*id);
        let there: BTreeSet<u64> = self.open.iter().filter_map(was_there).collect();
        // If it was none of what it is known to have computed, it was something else that was there.
        let suspects: BTreeSet<u64> = there.intersection(&computing).copied().collect();
        let suspects = if suspects.is_empty() { there } else { suspects };
        for (id, entry) in &mut self.open {
            entry.place = Place::Waits;
            entry.progress = 0;
            entry.deaths += u8::from(suspects.contains(id));
        }
        let guilty = self.open.iter().filter(|(_, entry)| entry.deaths >= GUILTY);
        outcome.guilty = guilty.map(|(id, _)| *id).collect();
        for &id in &outcome.guilty {
            let entry = self.open.remove(&id);
            outcome.tell.extend(entry.and_then(|e| e.request.failed(id, Failure::Crashed)));
        }
        self.trying = self.open.values().any(|entry| entry.deaths >= SUSPICIOUS);
        outcome
    }

    /// What the child is to be asked now: who had left the queue first, then the others in the order in
    /// which they came, questions last.
    fn due(&mut self) -> Vec<ToChild> {
        if !self.child || self.open.values().any(|entry| entry.place == Place::Withdrawn) {
            return Vec::new();
        }
        let suspect = self.open.iter_mut().find(|(_, entry)| entry.deaths >= SUSPICIOUS);
        match suspect {
            Some((_, suspect)) if suspect.place == Place::Sent => Vec::new(),
            Some((id, suspect)) => vec![suspect.send(*id)],
            None => {
                self.trying = false;
                let waiting = self.open.iter_mut().filter(|(_, e)| e.place == Place::Waits);
                let mut waiting: Vec<_> = waiting.collect();
                waiting.sort_by_key(|(id, entry)| (entry.request.rank(), **id));
                waiting.into_iter().map(|(id, entry)| entry.send(*id)).collect()
            }
        }
    }
}

impl Entry {
    fn send(&mut self, id: u64) -> ToChild {
        self.place = Place::Sent;
        match &self.request {
            Request::Text { generate, .. } => ToChild::Ask(Command::Generate(generate.clone())),
            Request::Vectors(embed) => ToChild::Ask(Command::Embed(embed.clone())),
            Request::Question { question, patient } => {
                ToChild::Answer { id, question: question.clone(), patient: *patient }
            }
        }
    }

    /// Takes note of news. Whether its reader does not know them yet.
    fn hear(&mut self, what: &What) -> bool {
        let Request::Text { generate, started } = &mut self.request else { return true };
        match what {
            What::Started { .. } => return !std::mem::replace(started, true),
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

impl Request {
    /// Who comes first. Of those that had left the queue the one with the fewest tokens to compute
    /// again does: on average they wait the least then.
    fn rank(&self) -> usize {
        match self {
            Self::Text { generate, started: true } => {
                let said = generate.said.iter().flatten().map(|said| said.tokens.len());
                generate.request.prompt.len() + said.sum::<usize>()
            }
            Self::Text { started: false, .. } | Self::Vectors(_) | Self::Question { .. } => {
                usize::MAX
            }
        }
    }

    /// What tells that it is forgotten; nothing does of a question.
    fn dropped(&self, id: u64) -> Option<Report> {
        match self {
            Self::Text { .. } => Some(over(id, What::Dropped)),
            Self::Vectors(_) => Some(Report::Dropped(id)),
            Self::Question { .. } => None,
        }
    }

    /// What tells that it has failed; whoever asked a question waits for it otherwise.
    fn failed(&self, id: u64, failure: Failure) -> Option<Report> {
        match self {
            Self::Text { .. } => Some(over(id, What::Failed(failure))),
            Self::Vectors(_) => Some(Report::Vectors { id, vectors: Err(failure) }),
            Self::Question { .. } => None,
        }
    }

    /// Why its time is up, if it is. Whether inputs were being computed is not known: only their own
    /// timeout counts.
    fn overdue(&self, queue_timeout: Option<Duration>, now: Instant) -> Option<Failure> {
        let (submitted, own, queue) = match self {
            Self::Text { generate, started } => {
                let queue = queue_timeout.filter(|_| !started);
                (generate.submitted.0, generate.request.origin.timeout, queue)
            }
            Self::Vectors(embed) => (embed.submitted.0, embed.timeout, None),
            Self::Question { .. } => return None,
        };
        let elapsed = now.saturating_duration_since(submitted);
        let over = |limit: Option<Duration>| limit.filter(|&limit| elapsed >= limit);
        over(own).map(Failure::Timeout).or_else(|| over(queue).map(Failure::QueueTimeout))
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
