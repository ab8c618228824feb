use serde_json::{Value, json};

use super::*;
use crate::config::StoreSettings;
use crate::convert::Stamp;
use crate::dialects::responses::encode::Echo;
use crate::response_store::{Owner, ResponseEntry, ResponseStore};

fn entry() -> ResponseEntry {
    let owner = Owner::of_key(None);
    let (previous, conversation) = (None, None);
    let (input, events) = (Arc::default(), Vec::new());
    ResponseEntry { owner, previous, conversation, input, retrievable: true, events }
}

/// What is known of a background response of this id.
fn header(id: &str) -> Header {
    let stamp = Stamp {
        id: id.to_owned(),
        created: 1_700_000_000,
        model: "m".to_owned(),
        system_fingerprint: "fp_x".to_owned(),
    };
    let request = r#"{"model": "m", "input": "x", "background": true, "metadata": {"k": "v"}}"#;
    let echo = Echo::of(&serde_json::from_str(request).unwrap(), true).unwrap();
    let mut header = Header::new(stamp, Arc::new(echo));
    header.set_stored(true, None);
    header
}

/// A job as it is after `queued` was stored, with one event.
async fn job(jobs: &Jobs, store: &ResponseStore, id: &str) -> Arc<Job> {
    let header = header(id);
    store.save(entry(), snapshot(&header, &Progress::of(Status::Queued), &[])).await.unwrap();
    let destination = Destination { store: store.clone(), entry: entry() };
    let job = Job::new(destination, header, Arc::clone(&jobs.0.bytes));
    let event = json!({"type": "response.created", "sequence_number": 0});
    job.add(vec![event.to_string().into()]);
    job
}

fn store() -> ResponseStore {
    ResponseStore::open(&StoreSettings::default()).unwrap()
}

/// A response as it is stored.
async fn whole(store: &ResponseStore, id: &str) -> Value {
    let response = store.object(&entry().owner, id).await.unwrap().unwrap().json;
    serde_json::from_str(&response).unwrap()
}

async fn status(store: &ResponseStore, id: &str) -> Value {
    let response = whole(store, id).await;
    json!([response["status"], response["error"]["code"]])
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it hangs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_its_job() {
    let (jobs, store) = (Jobs::default(), store());
    let job = job(&jobs, &store, "a").await;
    let queued = whole(&store, "a").await;
    assert_eq!((&queued["status"], &queued["background"]), (&json!("queued"), &json!(true)));
    jobs.spawn(&job, async { panic!("the work panics") });
    let events = Arc::clone(&job).events(0);
    let events: Vec<Arc<str>> = soon(futures_util::StreamExt::collect(events)).await;
    assert_eq!(events.len(), 2, "the first one, and that it failed");
    soon(job.cancel()).await;
    assert_eq!(status(&store, "a").await, json!(["failed", "internal_error"]));
    soon(jobs.idle()).await;
    assert!(jobs.find("a").is_none());
    let stored = store.events(&entry().owner, "a", 1, 10).await.unwrap();
    assert!(stored.len() == 1 && stored[0].contains("response.failed"), "{stored:?}");
    assert!(stored[0].contains("\"sequence_number\":1"), "{stored:?}");
    let mut failed = queued;
    failed["status"] = json!("failed");
    let message = "The server had an error while processing your request.";
    failed["error"] = json!({"code": "internal_error", "message": message});
    assert_eq!(whole(&store, "a").await, failed);
    let last = json!({"type": "response.failed", "response": failed, "sequence_number": 1});
    assert_eq!(serde_json::from_str::<Value>(&stored[0]).unwrap(), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_answer_is_dropped() {
    let (jobs, store) = (Jobs::default(), store());
    let job = job(&jobs, &store, "a").await;
    let mut cancelled = whole(&store, "a").await;
    jobs.spawn(&job, std::future::pending());
    assert!(jobs.find("a").is_some());
    let begin = std::time::Instant::now();
    soon(job.cancel()).await;
    assert!(begin.elapsed() >= CANCEL_WAIT);
    assert_eq!(status(&store, "a").await, json!(["cancelled", null]));
    cancelled["status"] = json!("cancelled");
    assert_eq!(whole(&store, "a").await, cancelled);
    let stored = store.events(&entry().owner, "a", 1, 10).await.unwrap();
    let last = json!({"type": "response.failed", "response": cancelled, "sequence_number": 1});
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert_eq!(serde_json::from_str::<Value>(&stored[0]).unwrap(), last);
    soon(jobs.idle()).await;
    assert!(jobs.find("a").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_end_counts() {
    let (jobs, store) = (Jobs::default(), store());
    let job = job(&jobs, &store, "a").await;
    let work = Arc::clone(&job);
    jobs.spawn(&job, async move {
        work.cancel.cancelled().await;
        let stored = |status| snapshot(&work.header, &Progress::of(status), &[]);
        work.end(stored(Status::Completed), "{}".into()).await;
        work.save_progress(stored(Status::InProgress)).await;
        panic!("afterwards");
    });
    soon(job.cancel()).await;
    soon(jobs.idle()).await;
    assert_eq!(status(&store, "a").await, json!(["completed", null]));
}

#[tokio::test]
async fn what_a_job_held_is_counted_and_given_back() {
    let (jobs, store) = (Jobs::default(), store());
    let job = job(&jobs, &store, "a").await;
    assert!(jobs.0.bytes.load(Ordering::Relaxed) > 40);
    drop(job);
    assert_eq!(jobs.0.bytes.load(Ordering::Relaxed), 0);
}
