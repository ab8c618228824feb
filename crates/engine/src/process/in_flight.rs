//! What a child was asked and has not done: enough to ask the next one, and to find out which request
//! it is that kills them.
//!
//! Each request and question counts the deaths of children that were computing it; 16 tokens from one
//! child take that back. At two it is a suspect: suspects run alone, one after the other, and nothing else
//! runs. At three it fails. Where a child computed nothing that is known when it died, all that it had
//! count half a death: most likely it was none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use super::frames;
use super::messages::{Answer, Question, ToChild};
use crate::deadlines::Timeouts;
use crate::failure::Failure;
use crate::message::{
    Command, EmbedCommand, GenerateCommand, NewToken, PartialAnswer, Report, Update, UpdateKind,
};

/// What counts against a request: a child that died while it computed it, and one that died while it had
/// it and computed nothing that is known.
const SEEN: u8 = 2;
const UNSEEN: u8 = 1;
/// What must count against it for it to be tried alone, and to be given up.
const SUSPICIOUS: u8 = 2 * SEEN;
const GUILTY: u8 = 3 * SEEN;
/// Tokens after which a request that was there when a child died is innocent of it.
const INNOCENT: u32 = 16;

/// The requests and questions of one engine that are not over, by number.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    open: BTreeMap<u64, Entry>,
    /// Those that were cancelled and that the child has not forgotten.
    leaving: BTreeMap<u64, Report>,
    /// Whether a child is there that takes what is asked.
    child: bool,
    /// Whether suspects run, one at a time, and nothing else.
    trying: bool,
    /// The longest that a request may wait.
    queue_timeout: Option<Duration>,
}

/// A request and what came of it.
#[derive(Debug)]
struct Entry {
    request: Job,
    delivery: Delivery,
    /// What counts against it since it last got on.
    deaths: u8,
    /// Tokens that came from this child.
    progress: u32,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// Here alone.
    Pending,
    /// In the child.
    Sent,
    /// In the child, which is to forget it: it is innocent, and others are to be tried.
    Withdrawn,
}

#[derive(Debug)]
enum Job {
    /// It has started where its reader knows that it has left the queue.
    Text(Box<GenerateCommand>),
    Vectors(Box<EmbedCommand>),
    Question {
        question: Question,
        patient: bool,
    },
}

/// What follows from what happened.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Actions {
    /// For the child.
    pub(super) ask: Vec<ToChild>,
    /// For those who wait.
    pub(super) tell: Vec<Report>,
    /// Requests and questions that were given up because they kill.
    pub(super) guilty: Vec<u64>,
}

impl InFlight {
    pub(super) fn new(queue_timeout: Option<Duration>) -> Self {
        Self { queue_timeout, ..Self::default() }
    }

    /// Whether requests wait here for others to be tried.
    pub(super) fn is_trying(&self) -> bool {
        self.trying
    }

    /// Requests and questions that are not over.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes note of what is asked.
    pub(super) fn ask(&mut self, command: Command) -> Actions {
        match command {
            Command::Generate(mut generate) => {
                let choices = generate.request.choices as usize;
                generate.partial.resize_with(choices, || Some(PartialAnswer::default()));
                self.insert(generate.id, Job::Text(generate))
            }
            Command::Embed(embed) => self.insert(embed.id, Job::Vectors(embed)),
            Command::Cancel(id) => self.cancel(id),
            Command::Close => {
                let ask = self.child.then_some(ToChild::Command(Command::Close));
                Actions { ask: ask.into_iter().collect(), ..Actions::default() }
            }
        }
    }

    /// Takes note of a question, whose number no request has.
    pub(super) fn question(&mut self, id: u64, question: Question, patient: bool) -> Actions {
        self.insert(id, Job::Question { question, patient })
    }

    fn insert(&mut self, id: u64, request: Job) -> Actions {
        let mut entry = Entry { request, delivery: Delivery::Pending, deaths: 0, progress: 0 };
        let mut outcome = Actions::default();
        if self.child && !self.trying {
            outcome.ask.push(entry.send(id));
        }
        self.open.insert(id, entry);
        outcome
    }

    fn cancel(&mut self, id: u64) -> Actions {
        let Some(entry) = self.open.remove(&id) else { return Actions::default() };
        let mut outcome = Actions::default();
        let Some(dropped) = entry.request.dropped(id) else { return outcome };
        match entry.delivery {
            Delivery::Pending => outcome.tell.push(dropped),
            Delivery::Sent => {
                outcome.ask.push(ToChild::Command(Command::Cancel(id)));
                self.leaving.insert(id, dropped);
            }
            Delivery::Withdrawn => drop(self.leaving.insert(id, dropped)),
        }
        outcome.ask.extend(self.due());
        outcome
    }

    /// Fails the requests whose time is up: for while there is no child that would.
    pub(super) fn reap(&mut self, now: Instant) -> Actions {
        let overdue = |(id, entry): (&u64, &Entry)| {
            Some((*id, entry.request.timeouts(self.queue_timeout)?.overdue(now)?))
        };
        let overdue: Vec<(u64, Failure)> = self.open.iter().filter_map(overdue).collect();
        let mut outcome = Actions::default();
        for (id, failure) in overdue {
            outcome.tell.extend(self.open.get(&id).and_then(|e| e.request.failed(id, failure)));
            outcome.ask.extend(self.cancel(id).ask);
        }
        outcome
    }

    /// Takes note of what the child says.
    ///
    /// # Errors
    /// When it is no answer to what the child was asked: anything may have happened in there.
    pub(super) fn hear(&mut self, report: Report) -> io::Result<Actions> {
        let mut outcome = Actions::default();
        match report {
            Report::Updates(all) => {
                let mut news = Vec::with_capacity(all.len());
                for each in all {
                    if self.is_news(&each)? {
                        news.push(each);
                    }
                }
                outcome.tell.extend((!news.is_empty()).then_some(Report::Updates(news)));
            }
            Report::Vectors { id, ref vectors } => {
                if let Some(entry) = self.open.get(&id) {
                    let Job::Vectors(embed) = &entry.request else { return Err(nonsense()) };
                    let count = vectors.as_ref().ok().map(Vec::len);
                    if count.is_some_and(|count| count != embed.inputs.len()) {
                        return Err(nonsense());
                    }
                    self.open.remove(&id);
                }
                self.leaving.remove(&id);
                outcome.tell.push(report);
            }
            Report::Dropped(id) => {
                if self.open.contains_key(&id) {
                    // Only requests for text are withdrawn.
                    return Err(nonsense());
                }
                self.leaving.remove(&id);
                outcome.tell.push(report);
            }
        }
        outcome.ask = self.try_others();
        Ok(outcome)
    }

    /// Takes note of an answer to a question.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn answered(&mut self, id: u64, answer: &Answer) -> io::Result<Actions> {
        let entry = self.open.remove(&id).ok_or_else(nonsense)?;
        let fits = match (&entry.request, answer) {
            (
                Job::Question { question: Question::Tokenise(texts, _), .. },
                Answer::Tokens(tokens),
            ) => texts.len() == tokens.len(),
            (Job::Question { question: Question::Compile(_), .. }, Answer::Compiled(_)) => true,
            _ => false,
        };
        if !fits {
            self.open.insert(id, entry);
            return Err(nonsense());
        }
        Ok(Actions { ask: self.try_others(), ..Actions::default() })
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
        let innocent =
            |entry: &Entry| entry.delivery == Delivery::Sent && entry.deaths < SUSPICIOUS;
        let (id, entry) = self.open.iter_mut().find(|(_, entry)| innocent(entry))?;
        entry.delivery = Delivery::Withdrawn;
        Some(ToChild::Command(Command::Cancel(*id)))
    }

    fn is_news(&mut self, news: &Update) -> io::Result<bool> {
        let Some(entry) = self.open.get_mut(&news.id) else {
            // Of one that was cancelled only its end is of interest.
            return Ok(news.last && self.leaving.remove(&news.id).is_some());
        };
        if entry.delivery == Delivery::Withdrawn && news.kind == UpdateKind::Dropped {
            entry.delivery = Delivery::Pending;
            return Ok(false);
        }
        let is_new = entry.hear(news)?;
        if news.last {
            self.open.remove(&news.id);
        }
        Ok(is_new)
    }

    /// Takes note of a child that takes what is asked, and asks it.
    pub(super) fn loaded(&mut self) -> Actions {
        self.child = true;
        Actions { ask: self.due(), ..Actions::default() }
    }

    /// Takes note of a child's death, which computed these requests and questions.
    pub(super) fn died(&mut self, computing: &[u64]) -> Actions {
        self.child = false;
        let mut outcome = Actions::default();
        let left = std::mem::take(&mut self.leaving);
        let was_there =
            |(id, entry): (&u64, &Entry)| (entry.delivery != Delivery::Pending).then_some(*id);
        let there: BTreeSet<u64> = self.open.iter().filter_map(was_there).collect();
        // If it was none of what it is known to have computed, it was something else that was there.
        let is_known = computing.iter().any(|id| there.contains(id) || left.contains_key(id));
        let computing: BTreeSet<u64> = computing.iter().copied().collect();
        let (suspects, weight) =
            if is_known { (&there & &computing, SEEN) } else { (there, UNSEEN) };
        outcome.tell.extend(left.into_values());
        for (id, entry) in &mut self.open {
            entry.delivery = Delivery::Pending;
            entry.progress = 0;
            entry.deaths += if suspects.contains(id) { weight } else { 0 };
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
        // Whoever is tried is alone in the child: those that were there before have to be out of it.
        let is_alone = self.leaving.is_empty() || !self.trying;
        let withdrawn = self.open.values().any(|entry| entry.delivery == Delivery::Withdrawn);
        if !self.child || withdrawn || !is_alone {
            return Vec::new();
        }
        let suspect = self.open.iter_mut().find(|(_, entry)| entry.deaths >= SUSPICIOUS);
        match suspect {
            Some((_, suspect)) if suspect.delivery == Delivery::Sent => Vec::new(),
            Some((id, suspect)) => vec![suspect.send(*id)],
            None => {
                self.trying = false;
                let waiting = self.open.iter_mut().filter(|(_, e)| e.delivery == Delivery::Pending);
                let mut waiting: Vec<_> = waiting.collect();
                waiting.sort_by_key(|(id, entry)| (entry.request.rank(), **id));
                waiting.into_iter().map(|(id, entry)| entry.send(*id)).collect()
            }
        }
    }
}

impl Entry {
    fn send(&mut self, id: u64) -> ToChild {
        self.delivery = Delivery::Sent;
        match &mut self.request {
            Job::Text(generate) => ToChild::Command(Command::Generate(generate.clone())),
            Job::Vectors(embed) => {
                let first = embed.clone();
                embed.started = true;
                ToChild::Command(Command::Embed(first))
            }
            Job::Question { question, patient } => {
                ToChild::Question { id, question: question.clone(), patient: *patient }
            }
        }
    }

    /// Takes note of news. Whether its reader does not know them yet.
    fn hear(&mut self, news: &Update) -> io::Result<bool> {
        let Job::Text(generate) = &mut self.request else { return Err(nonsense()) };
        let partial = &mut generate.partial;
        let is_over = match &news.kind {
            UpdateKind::Finished { choice, .. } => {
                let own = |(at, partial): (usize, &Option<PartialAnswer>)| {
                    (at == *choice as usize) == partial.is_some()
                };
                partial.iter().enumerate().all(own)
            }
            kind => matches!(kind, UpdateKind::Failed(_)),
        };
        if is_over != news.last {
            return Err(nonsense());
        }
        match &news.kind {
            UpdateKind::Started { .. } => {
                return Ok(!std::mem::replace(&mut generate.started, true));
            }
            UpdateKind::Prompt(_) => return Ok(generate.request.prompt_logprobs.take().is_some()),
            UpdateKind::Token(grown) => {
                self.progress += 1;
                if self.progress >= INNOCENT {
                    self.deaths = 0;
                }
                let partial = partial.get_mut(grown.choice as usize).and_then(Option::as_mut);
                grow(partial.ok_or_else(nonsense)?, grown);
            }
            UpdateKind::Finished { choice, .. } => {
                let finished = partial.get_mut(*choice as usize).and_then(Option::take);
                finished.ok_or_else(nonsense)?;
            }
            UpdateKind::Failed(_) => {}
            // It was not cancelled.
            UpdateKind::Dropped => return Err(nonsense()),
        }
        Ok(true)
    }
}

impl Job {
    /// Who comes first. Of those that had left the queue the one with the fewest tokens to compute
    /// again does: on average they wait the least then.
    fn rank(&self) -> usize {
        match self {
            Self::Text(generate) if generate.started => {
                let partial = generate.partial.iter().flatten().map(|partial| partial.tokens.len());
                generate.request.prompt.len() + partial.sum::<usize>()
            }
            Self::Text(_) | Self::Vectors(_) | Self::Question { .. } => usize::MAX,
        }
    }

    /// What tells that it is forgotten; nothing does of a question.
    fn dropped(&self, id: u64) -> Option<Report> {
        match self {
            Self::Text(_) => Some(over(id, UpdateKind::Dropped)),
            Self::Vectors(_) => Some(Report::Dropped(id)),
            Self::Question { .. } => None,
        }
    }

    /// What tells that it has failed; whoever asked a question waits for it otherwise.
    fn failed(&self, id: u64, failure: Failure) -> Option<Report> {
        match self {
            Self::Text(_) => Some(over(id, UpdateKind::Failed(failure))),
            Self::Vectors(_) => Some(Report::Vectors { id, vectors: Err(failure) }),
            Self::Question { .. } => None,
        }
    }

    /// How long it may take. Whether inputs were being computed is not known: only their own timeout
    /// counts.
    fn timeouts(&self, queue: Option<Duration>) -> Option<Timeouts> {
        match self {
            Self::Text(generate) => {
                let queue = queue.filter(|_| !generate.started);
                let (submitted, own) = (generate.submitted.0, generate.request.admission.timeout);
                Some(Timeouts { submitted, own, queue })
            }
            Self::Vectors(embed) => {
                Some(Timeouts { submitted: embed.submitted.0, own: embed.timeout, queue: None })
            }
            Self::Question { .. } => None,
        }
    }
}

fn grow(partial: &mut PartialAnswer, grown: &NewToken) {
    // An answer can end without a further token.
    if grown.tokens as usize > partial.tokens.len() {
        partial.tokens.push(grown.token);
    }
    partial.rng_position = grown.rng_position;
    partial.held.clone_from(&grown.held);
}

fn nonsense() -> io::Error {
    frames::invalid("what it says is no answer to what it was asked")
}

/// The last news about a request for text.
fn over(id: u64, kind: UpdateKind) -> Report {
    Report::Updates(vec![Update { id, after: Duration::ZERO, kind, last: true }])
}

#[cfg(test)]
mod tests;
