//! The lanes on models that tell what they were given.

use super::*;
use crate::message::{EmbedResult, SubmitTime};
use crate::step_timeouts::StepTimeouts;
use std::collections::BTreeMap;

/// Collects what is reported, for each request in a channel of its own.
#[derive(Default)]
struct Answers(Mutex<BTreeMap<u64, std::sync::mpsc::Sender<EmbedResult>>>);

impl ReportSink for Answers {
    fn report(&self, report: Report) {
        let Report::Vectors { id, vectors } = report else { panic!("{report:?}") };
        let reply = lock(&self.0).remove(&id).expect("one answer each");
        drop(reply.send(vectors));
    }

    fn ended(&self) {}
}

/// An engine that runs, and how to ask it.
struct Running {
    commands: mpsc::UnboundedSender<Command>,
    answers: Arc<Answers>,
    board: Arc<StatusBoard>,
    thread: thread::JoinHandle<()>,
}

/// Tells each input's length, or fails on one that begins with [`POISON`].
struct Lengths {
    capacity: usize,
}

const POISON: Token = 666;

fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed)
}

impl EmbeddingModel for Lengths {
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError> {
        let tokens: usize = inputs.iter().map(|i| i.len()).sum();
        assert!(tokens <= self.capacity, "{tokens} tokens do not fit");
        thread::sleep(Duration::from_millis(1));
        if inputs.iter().any(|i| i.first() == Some(&POISON)) {
            return Err(StepError("poisoned".to_owned()));
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let vector = |input: &&[Token]| vec![input.len() as f32, 1.0];
        Ok(inputs.iter().map(vector).collect())
    }
}

fn start(lanes: usize) -> Running {
    #[expect(clippy::disallowed_methods, reason = "a test sends few")]
    let (commands, inbox) = mpsc::unbounded_channel();
    let answers = Arc::<Answers>::default();
    let out = Arc::clone(&answers) as Arc<dyn ReportSink>;
    let clients = EmbeddingChannels { inbox, queue_timeout: None, out };
    let board = Arc::new(StatusBoard::new(StepTimeouts::new(Duration::from_secs(60), Vec::new())));
    let narrow = (0..lanes).map(|_| Lengths { capacity: 64 }).collect();
    let pass = PassLimits { tokens: 64, inputs: 16, block: 64 };
    let contexts = EmbeddingContexts { wide: Lengths { capacity: 500 }, narrow, pass };
    let shared = Arc::clone(&board);
    let body = move || EmbedWorker::serve(contexts, clients, true, shared);
    let thread = thread::Builder::new().spawn(body).unwrap();
    Running { commands, answers, board, thread }
}

impl Running {
    fn submit(&self, inputs: Vec<Vec<Token>>) -> std::sync::mpsc::Receiver<EmbedResult> {
        let (reply, answer) = std::sync::mpsc::channel();
        let id = next_id();
        lock(&self.answers.0).insert(id, reply);
        let embed = EmbedCommand {
            id,
            inputs,
            submitted: SubmitTime::now(),
            started: false,
            timeout: None,
        };
        // A worker that has ended takes nothing: then there is no answer.
        if self.commands.send(Command::Embed(Box::new(embed))).is_err() {
            lock(&self.answers.0).clear();
        }
        answer
    }

    fn end(self) -> Arc<StatusBoard> {
        drop(self.commands);
        self.thread.join().unwrap();
        self.board
    }
}

#[test]
fn every_input_gets_its_own_vector_whichever_lane_computes_it() {
    for lanes in [0, 3] {
        let running = start(lanes);
        let inputs = |job: usize| (0..20).map(move |i| vec![7; 1 + (job * 13 + i * 7) % 90]);
        let answers: Vec<_> = (0..30).map(|j| running.submit(inputs(j).collect())).collect();
        for (job, answer) in answers.into_iter().enumerate() {
            let vectors = answer.recv().unwrap().unwrap();
            for (input, vector) in inputs(job).zip(vectors) {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let length = input.len() as f32;
                assert!((vector[0] / vector[1] - length).abs() < 1e-3, "{vector:?} {length}");
            }
        }
        assert_eq!(running.end().stats().running, 0);
    }
}

#[test]
fn a_failed_pass_fails_its_requests_and_three_in_a_row_end_all_lanes() {
    let running = start(2);
    let poisoned = || vec![vec![POISON; 60], vec![1; 60], vec![1; 60]];
    assert_eq!(running.submit(poisoned()).recv().unwrap(), Err(Failure::Step));
    assert!(running.submit(vec![vec![1; 10]]).recv().unwrap().is_ok());
    // A pass of the first request that another lane still computes would come in between.
    let deadline = Instant::now() + Duration::from_secs(30);
    while running.board.stats().running > 0 {
        assert!(Instant::now() < deadline, "a pass does not end");
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..MAX_FAILED_PASSES {
        let alone = running.submit(vec![vec![POISON]]);
        assert_eq!(alone.recv().unwrap(), Err(Failure::Step));
    }
    for _ in 0..1000 {
        if running.board.status() == Status::Failed {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(running.board.status(), Status::Failed);
    // A lane that was waiting finds out by the next request.
    let late = running.submit(vec![vec![1]]);
    let answers = Arc::clone(&running.answers);
    assert_eq!(running.end().stats().step_errors, 4);
    // Whoever reports ends what is open.
    lock(&answers.0).clear();
    assert!(!matches!(late.recv(), Ok(Ok(_))));
}

#[test]
fn vectors_get_length_one_and_zeros_stay() {
    let mut v = [3.0, 4.0];
    scale_to_unit(&mut v);
    assert_eq!(v, [0.6, 0.8]);
    let mut zero = [0.0; 3];
    scale_to_unit(&mut zero);
    assert_eq!(zero, [0.0; 3]);
}
