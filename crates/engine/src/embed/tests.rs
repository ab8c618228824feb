//! The lanes on models that tell what they were given.

use super::*;

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

fn start(lanes: usize) -> (mpsc::Sender<EmbedJob>, Arc<Board>, thread::JoinHandle<()>) {
    let (sender, inbox) = mpsc::channel(64);
    let clients = Clients { inbox, departures: Arc::default(), queue_timeout: None };
    let board = Arc::new(Board::new());
    let narrow = (0..lanes).map(|_| Lengths { capacity: 64 }).collect();
    let pass = Pass { tokens: 64, inputs: 16, block: 64 };
    let contexts = Contexts { wide: Lengths { capacity: 500 }, narrow, pass };
    let shared = Arc::clone(&board);
    let body = move || EmbedWorker::serve(contexts, clients, true, shared);
    (sender, board, thread::Builder::new().spawn(body).unwrap())
}

fn submit(
    sender: &mpsc::Sender<EmbedJob>,
    inputs: Vec<Vec<Token>>,
) -> oneshot::Receiver<Result<Vec<Vec<f32>>, Failure>> {
    let (reply, answer) = oneshot::channel();
    sender.blocking_send(EmbedJob::new(next_id(), inputs, reply, None)).unwrap();
    answer
}

#[test]
fn every_input_gets_its_own_vector_whichever_lane_computes_it() {
    for lanes in [0, 3] {
        let (sender, board, thread) = start(lanes);
        let inputs = |job: usize| (0..20).map(move |i| vec![7; 1 + (job * 13 + i * 7) % 90]);
        let answers: Vec<_> = (0..30).map(|j| submit(&sender, inputs(j).collect())).collect();
        for (job, answer) in answers.into_iter().enumerate() {
            let vectors = answer.blocking_recv().unwrap().unwrap();
            for (input, vector) in inputs(job).zip(vectors) {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let length = input.len() as f32;
                assert!((vector[0] / vector[1] - length).abs() < 1e-3, "{vector:?} {length}");
            }
        }
        drop(sender);
        thread.join().unwrap();
        assert_eq!(board.stats().running, 0);
    }
}

#[test]
fn a_failed_pass_fails_its_requests_and_three_in_a_row_end_all_lanes() {
    let (sender, board, thread) = start(2);
    let poisoned = || vec![vec![POISON; 60], vec![1; 60], vec![1; 60]];
    assert_eq!(submit(&sender, poisoned()).blocking_recv().unwrap(), Err(Failure::Step));
    assert!(submit(&sender, vec![vec![1; 10]]).blocking_recv().unwrap().is_ok());
    for _ in 0..MAX_FAILED_PASSES {
        let alone = submit(&sender, vec![vec![POISON]]);
        assert_eq!(alone.blocking_recv().unwrap(), Err(Failure::Step));
    }
    for _ in 0..1000 {
        if board.status() == Status::Failed {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(board.status(), Status::Failed);
    // A lane that was waiting finds out by the next request, which is dropped.
    let (reply, late) = oneshot::channel();
    drop(sender.blocking_send(EmbedJob::new(next_id(), vec![vec![1]], reply, None)));
    drop(sender);
    assert!(late.blocking_recv().is_err());
    thread.join().unwrap();
    assert_eq!(board.stats().step_errors, 4);
}

#[test]
fn vectors_get_length_one_and_zeros_stay() {
    let mut v = [3.0, 4.0];
    normalise(&mut v);
    assert_eq!(v, [0.6, 0.8]);
    let mut zero = [0.0; 3];
    normalise(&mut zero);
    assert_eq!(zero, [0.0; 3]);
}
