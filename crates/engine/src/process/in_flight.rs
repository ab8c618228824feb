//! The requests and questions that a child has not completed: enough to send them to the next child, and to find a
//! request that kills its engine.
//!
//! Each request and question counts the crashes of children that were computing it; 16 tokens from one child reset the
//! count. At two it is a suspect: suspects run alone, one after the other, while all others wait. At three it is
//! rejected. If a child had recorded nothing when it crashed, all that it had count half a crash: most likely none of
//! them was the cause.

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

/// Half crashes that a crash counts: for requests that the child was computing, and, if it had recorded none, for all
/// that it had.
const COMPUTING: u8 = 2;
const PRESENT: u8 = 1;
/// Half crashes from which a request runs alone, and from which it is rejected.
const SUSPECT: u8 = 2 * COMPUTING;
const REJECTED: u8 = 3 * COMPUTING;
/// Tokens from one child that clear a request of earlier crashes.
const CLEARING_TOKENS: u32 = 16;

/// The open requests and questions of one engine, by id.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    open: BTreeMap<u64, Entry>,
    /// Cancelled requests that the child has not removed yet, each with its last report.
    cancelling: BTreeMap<u64, Report>,
    /// Whether there is a child that has loaded the model.
    has_child: bool,
    /// Whether suspects run, one at a time, while all others wait.
    isolating: bool,
    /// The longest that a request may wait in the queue.
    queue_timeout: Option<Duration>,
}

/// A request or question, and its progress.
#[derive(Debug)]
struct Entry {
    request: Job,
    delivery: Delivery,
    /// Half crashes since it last made progress.
    crashes: u8,
    /// Tokens from the current child.
    progress: u32,
}

/// Whether the child has a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// It was not sent.
    Pending,
    /// The child has it.
    Sent,
    /// It was cleared and is being cancelled in the child, so that suspects can run alone.
    Withdrawn,
}

#[derive(Debug)]
enum Job {
    /// It has `started` once its reader knows that it has left the queue.
    Text(Box<GenerateCommand>),
    Vectors(Box<EmbedCommand>),
    Question {
        question: Question,
        background: bool,
    },
}

/// What the supervisor is to do after an event.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Actions {
    /// Messages to the child.
    pub(super) to_child: Vec<ToChild>,
    /// Reports to readers.
    pub(super) reports: Vec<Report>,
    /// Requests and questions that were rejected because they kill their engine.
    pub(super) rejected: Vec<u64>,
}

impl InFlight {
    pub(super) fn new(queue_timeout: Option<Duration>) -> Self {
        Self { queue_timeout, ..Self::default() }
    }

    /// Whether requests wait while suspects run alone.
    pub(super) fn is_isolating(&self) -> bool {
        self.isolating
    }

    /// Open requests and questions.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Records a command.
    pub(super) fn handle_command(&mut self, command: Command) -> Actions {
        match command {
            Command::Generate(mut generate) => {
                let choices = generate.request.choices as usize;
                generate.partial.resize_with(choices, || Some(PartialAnswer::default()));
                self.insert(generate.id, Job::Text(generate))
            }
            Command::Embed(embed) => self.insert(embed.id, Job::Vectors(embed)),
            Command::Cancel(id) => self.cancel(id),
            Command::Close => {
                let close = self.has_child.then_some(ToChild::Command(Command::Close));
                Actions { to_child: close.into_iter().collect(), ..Actions::default() }
            }
        }
    }

    /// Records a question, whose id no request has.
    pub(super) fn add_question(
        &mut self,
        id: u64,
        question: Question,
        background: bool,
    ) -> Actions {
        self.insert(id, Job::Question { question, background })
    }

    fn insert(&mut self, id: u64, request: Job) -> Actions {
        let mut entry = Entry { request, delivery: Delivery::Pending, crashes: 0, progress: 0 };
        let mut actions = Actions::default();
        if self.has_child && !self.isolating {
            actions.to_child.push(entry.send(id));
        }
        self.open.insert(id, entry);
        actions
    }

    fn cancel(&mut self, id: u64) -> Actions {
        let Some(entry) = self.open.remove(&id) else { return Actions::default() };
        let mut actions = Actions::default();
        let Some(dropped) = entry.request.dropped(id) else { return actions };
        match entry.delivery {
            Delivery::Pending => actions.reports.push(dropped),
            Delivery::Sent => {
                actions.to_child.push(ToChild::Command(Command::Cancel(id)));
                self.cancelling.insert(id, dropped);
            }
            Delivery::Withdrawn => drop(self.cancelling.insert(id, dropped)),
        }
        actions.to_child.extend(self.due());
        actions
    }

    /// Fails overdue requests, while no child can.
    pub(super) fn fail_overdue(&mut self, now: Instant) -> Actions {
        let overdue = |(id, entry): (&u64, &Entry)| {
            Some((*id, entry.request.timeouts(self.queue_timeout)?.overdue(now)?))
        };
        let overdue: Vec<(u64, Failure)> = self.open.iter().filter_map(overdue).collect();
        let mut actions = Actions::default();
        for (id, failure) in overdue {
            actions.reports.extend(self.open.get(&id).and_then(|e| e.request.failed(id, failure)));
            actions.to_child.extend(self.cancel(id).to_child);
        }
        actions
    }

    /// Checks and records a report from the child.
    ///
    /// # Errors
    /// When it does not fit the open requests: a child may send anything.
    pub(super) fn handle_report(&mut self, report: Report) -> io::Result<Actions> {
        let mut actions = Actions::default();
        match report {
            Report::Updates(all) => {
                let mut updates = Vec::with_capacity(all.len());
                for each in all {
                    if self.record_update(&each)? {
                        updates.push(each);
                    }
                }
                actions.reports.extend((!updates.is_empty()).then_some(Report::Updates(updates)));
            }
            Report::Vectors { id, ref vectors } => {
                if let Some(entry) = self.open.get(&id) {
                    let Job::Vectors(embed) = &entry.request else { return Err(unexpected()) };
                    let count = vectors.as_ref().ok().map(Vec::len);
                    if count.is_some_and(|count| count != embed.inputs.len()) {
                        return Err(unexpected());
                    }
                    self.open.remove(&id);
                }
                self.cancelling.remove(&id);
                actions.reports.push(report);
            }
            Report::Dropped(id) => {
                if self.open.contains_key(&id) {
                    // Only requests for text are withdrawn.
                    return Err(unexpected());
                }
                self.cancelling.remove(&id);
                actions.reports.push(report);
            }
        }
        actions.to_child = self.next_suspect();
        Ok(actions)
    }

    /// Records an answer to a question.
    ///
    /// # Errors
    /// When it does not fit the question.
    pub(super) fn handle_answer(&mut self, id: u64, answer: &Answer) -> io::Result<Actions> {
        let entry = self.open.remove(&id).ok_or_else(unexpected)?;
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
            return Err(unexpected());
        }
        Ok(Actions { to_child: self.next_suspect(), ..Actions::default() })
    }

    /// While suspects run alone: moves on to the next one when this one is cleared.
    fn next_suspect(&mut self) -> Vec<ToChild> {
        if !self.isolating {
            return Vec::new();
        }
        self.withdraw().into_iter().chain(self.due()).collect()
    }

    /// Cancels a cleared request in the child, if suspects are left.
    fn withdraw(&mut self) -> Option<ToChild> {
        if !self.open.values().any(|entry| entry.crashes >= SUSPECT) {
            return None;
        }
        let is_cleared =
            |entry: &Entry| entry.delivery == Delivery::Sent && entry.crashes < SUSPECT;
        let (id, entry) = self.open.iter_mut().find(|(_, entry)| is_cleared(entry))?;
        entry.delivery = Delivery::Withdrawn;
        Some(ToChild::Command(Command::Cancel(*id)))
    }

    fn record_update(&mut self, update: &Update) -> io::Result<bool> {
        let Some(entry) = self.open.get_mut(&update.id) else {
            // Of a cancelled request only the end matters.
            return Ok(update.last && self.cancelling.remove(&update.id).is_some());
        };
        if entry.delivery == Delivery::Withdrawn && update.kind == UpdateKind::Dropped {
            entry.delivery = Delivery::Pending;
            return Ok(false);
        }
        let is_new = entry.record(update)?;
        if update.last {
            self.open.remove(&update.id);
        }
        Ok(is_new)
    }

    /// Records that a child has loaded the model, and sends it the open requests.
    pub(super) fn handle_loaded(&mut self) -> Actions {
        self.has_child = true;
        Actions { to_child: self.due(), ..Actions::default() }
    }

    /// Records a child's unexpected exit; `computing` are the requests and questions of its crash record.
    pub(super) fn handle_exit(&mut self, computing: &[u64]) -> Actions {
        self.has_child = false;
        let mut actions = Actions::default();
        let cancelling = std::mem::take(&mut self.cancelling);
        let was_sent =
            |(id, entry): (&u64, &Entry)| (entry.delivery != Delivery::Pending).then_some(*id);
        let sent: BTreeSet<u64> = self.open.iter().filter_map(was_sent).collect();
        // If the record names no open request, any of those that were sent may be the cause.
        let is_known = computing.iter().any(|id| sent.contains(id) || cancelling.contains_key(id));
        let computing: BTreeSet<u64> = computing.iter().copied().collect();
        let (suspects, weight) =
            if is_known { (&sent & &computing, COMPUTING) } else { (sent, PRESENT) };
        actions.reports.extend(cancelling.into_values());
        for (id, entry) in &mut self.open {
            entry.delivery = Delivery::Pending;
            entry.progress = 0;
            entry.crashes += if suspects.contains(id) { weight } else { 0 };
        }
        let rejected = self.open.iter().filter(|(_, entry)| entry.crashes >= REJECTED);
        actions.rejected = rejected.map(|(id, _)| *id).collect();
        for &id in &actions.rejected {
            let entry = self.open.remove(&id);
            actions.reports.extend(entry.and_then(|e| e.request.failed(id, Failure::Crashed)));
        }
        self.isolating = self.open.values().any(|entry| entry.crashes >= SUSPECT);
        actions
    }

    /// The messages to send now: requests that had left the queue first, then the others in the order of arrival,
    /// questions last.
    fn due(&mut self) -> Vec<ToChild> {
        // A suspect runs alone: the child must have removed all others first.
        let is_empty = self.cancelling.is_empty() || !self.isolating;
        let withdrawn = self.open.values().any(|entry| entry.delivery == Delivery::Withdrawn);
        if !self.has_child || withdrawn || !is_empty {
            return Vec::new();
        }
        let suspect = self.open.iter_mut().find(|(_, entry)| entry.crashes >= SUSPECT);
        match suspect {
            Some((_, suspect)) if suspect.delivery == Delivery::Sent => Vec::new(),
            Some((id, suspect)) => vec![suspect.send(*id)],
            None => {
                self.isolating = false;
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
            Job::Question { question, background } => {
                ToChild::Question { id, question: question.clone(), background: *background }
            }
        }
    }

    /// Records an update. Returns whether it is new to the request's reader.
    fn record(&mut self, update: &Update) -> io::Result<bool> {
        let Job::Text(generate) = &mut self.request else { return Err(unexpected()) };
        let partial = &mut generate.partial;
        let is_over = match &update.kind {
            UpdateKind::Finished { choice, .. } => {
                let own = |(at, partial): (usize, &Option<PartialAnswer>)| {
                    (at == *choice as usize) == partial.is_some()
                };
                partial.iter().enumerate().all(own)
            }
            kind => matches!(kind, UpdateKind::Failed(_)),
        };
        if is_over != update.last {
            return Err(unexpected());
        }
        match &update.kind {
            UpdateKind::Started { .. } => {
                return Ok(!std::mem::replace(&mut generate.started, true));
            }
            UpdateKind::Prompt(_) => return Ok(generate.request.prompt_logprobs.take().is_some()),
            UpdateKind::Token(new) => {
                self.progress += 1;
                if self.progress >= CLEARING_TOKENS {
                    self.crashes = 0;
                }
                let partial = partial.get_mut(new.choice as usize).and_then(Option::as_mut);
                append(partial.ok_or_else(unexpected)?, new);
            }
            UpdateKind::Finished { choice, .. } => {
                let finished = partial.get_mut(*choice as usize).and_then(Option::take);
                finished.ok_or_else(unexpected)?;
            }
            UpdateKind::Failed(_) => {}
            // The request was not cancelled.
            UpdateKind::Dropped => return Err(unexpected()),
        }
        Ok(true)
    }
}

impl Job {
    /// Order of sending. Of the requests that had left the queue the one with the fewest tokens to compute again is
    /// first: that minimises their mean wait.
    fn rank(&self) -> usize {
        match self {
            Self::Text(generate) if generate.started => {
                let partial = generate.partial.iter().flatten().map(|partial| partial.tokens.len());
                generate.request.prompt.len() + partial.sum::<usize>()
            }
            Self::Text(_) | Self::Vectors(_) | Self::Question { .. } => usize::MAX,
        }
    }

    /// The report of its removal; `None` for a question.
    fn dropped(&self, id: u64) -> Option<Report> {
        match self {
            Self::Text(_) => Some(last_update(id, UpdateKind::Dropped)),
            Self::Vectors(_) => Some(Report::Dropped(id)),
            Self::Question { .. } => None,
        }
    }

    /// The report of its failure; `None` for a question, whose caller waits on a channel of its own.
    fn failed(&self, id: u64, failure: Failure) -> Option<Report> {
        match self {
            Self::Text(_) => Some(last_update(id, UpdateKind::Failed(failure))),
            Self::Vectors(_) => Some(Report::Vectors { id, vectors: Err(failure) }),
            Self::Question { .. } => None,
        }
    }

    /// Its time limits. For vectors only their own timeout counts, because whether they have left the queue is not known.
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

fn append(partial: &mut PartialAnswer, new: &NewToken) {
    // An answer can end without a further token.
    if new.tokens as usize > partial.tokens.len() {
        partial.tokens.push(new.token);
    }
    partial.rng_position = new.rng_position;
    partial.held.clone_from(&new.held);
}

fn unexpected() -> io::Error {
    frames::invalid("what it says is no answer to what it was asked")
}

/// The last update of a request for text.
fn last_update(id: u64, kind: UpdateKind) -> Report {
    Report::Updates(vec![Update { id, after: Duration::ZERO, kind, last: true }])
}

#[cfg(test)]
mod tests;
