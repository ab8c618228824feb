use serde_json::{Value, json};

use super::*;

fn owner(key: &'static str) -> Owner {
    Owner::of_key(Some(key.as_bytes()))
}

fn stored(item: &Value) -> StoredItem {
    StoredItem { id: item["id"].as_str().map(str::to_owned), json: item.to_string() }
}

fn open(path: Option<&Path>, max_bytes: i64) -> ResponseStore {
    ResponseStore::at(path, max_bytes, Duration::from_secs(60)).unwrap()
}

fn item(id: &str) -> Value {
    json!({"id": id, "type": "message"})
}

fn entry(input: &str, previous: Option<&str>, conversation: Option<&str>) -> ResponseEntry {
    ResponseEntry {
        owner: owner("a"),
        previous: previous.map(str::to_owned),
        conversation: conversation.map(str::to_owned),
        input: Arc::new([stored(&item(input))]),
        retrievable: true,
        events: vec!["{}".into(), "{\"n\": 1}".into()],
    }
}

fn response(id: &str, status: &str, output: &str) -> Value {
    json!({"id": id, "object": "response", "status": status, "output": [item(output)]})
}

/// Stores a response of this form.
async fn save(store: &ResponseStore, entry: ResponseEntry, mut response: Value) {
    let output = response["output"].take();
    let snapshot = ResponseSnapshot {
        id: response["id"].as_str().unwrap().to_owned(),
        complete: response["status"] == "completed",
        body: response.to_string(),
        output: output.as_array().unwrap().iter().map(stored).collect(),
    };
    store.save(entry, snapshot).await.unwrap();
}

async fn put(store: &ResponseStore, owner: &Owner, conversation: Value) {
    let id = conversation["id"].as_str().unwrap();
    store.put_conversation(owner, id, conversation.to_string()).await.unwrap();
}

fn ids(page: &ItemPage) -> Vec<&str> {
    page.items.iter().map(|(id, _)| id.as_str()).collect()
}

async fn history(store: &ResponseStore, id: &str) -> Result<Vec<String>, NotFound> {
    let History { items, whole } = store.history(&owner("a"), id, 1 << 20).await.unwrap()?;
    assert!(whole);
    Ok(items.iter().map(|item| id_of(item)).collect())
}

fn id_of(item: &str) -> String {
    serde_json::from_str::<Value>(item).unwrap()["id"].as_str().unwrap().to_owned()
}

/// The whole of a holder.
async fn get(store: &ResponseStore, key: &'static str, id: &str) -> Option<Value> {
    let found = store.object(&owner(key), id).await.unwrap()?;
    let value: Value = serde_json::from_str(&found.json).unwrap();
    assert_eq!(value["object"].as_str().unwrap_or_default(), found.object);
    let kind = store.object_type(&owner(key), id).await.unwrap().unwrap();
    assert_eq!(kind, (found.object, found.background));
    Some(value)
}

async fn item_at(
    store: &ResponseStore,
    key: &'static str,
    id: &str,
) -> Result<Vec<String>, ItemError> {
    let items = store.items(&owner(key), vec![id.to_owned()], 1 << 20).await.unwrap()?;
    Ok(items.iter().map(|item| id_of(item)).collect())
}

#[tokio::test]
async fn responses_follow_on_each_other() {
    let store = open(None, 1 << 20);
    save(&store, entry("i1", None, None), response("r1", "completed", "o1")).await;
    save(&store, entry("i2", Some("r1"), None), response("r2", "in_progress", "o0")).await;
    save(&store, entry("i2", Some("r1"), None), response("r2", "completed", "o2")).await;
    assert_eq!(history(&store, "r2").await.unwrap(), ["i1", "o1", "i2", "o2"]);
    let got = get(&store, "a", "r2").await.unwrap();
    assert_eq!(got, response("r2", "completed", "o2"));
    assert_eq!(store.events(&owner("a"), "r2", 1, 9).await.unwrap(), ["{\"n\": 1}"]);
    assert_eq!(store.events(&owner("a"), "r2", 0, 1).await.unwrap(), ["{}"]);
    assert_eq!(item_at(&store, "a", "o1").await, Ok(vec!["o1".to_owned()]));
    // Another key sees nothing of it.
    assert_eq!(get(&store, "b", "r2").await, None);
    assert_eq!(item_at(&store, "b", "o1").await, Err(ItemError::NotFound(0)));
    assert!(store.events(&owner("b"), "r2", 0, 9).await.unwrap().is_empty());
    assert!(!store.delete(&owner("b"), "r1").await.unwrap());
    assert!(store.delete(&owner("a"), "r1").await.unwrap());
    assert!(!store.delete(&owner("a"), "r1").await.unwrap());
    assert_eq!(history(&store, "r2").await, Err(NotFound("r1".to_owned())));
    assert_eq!(item_at(&store, "a", "o1").await, Err(ItemError::NotFound(0)));
}

#[tokio::test]
async fn conversations_grow_by_what_was_said() {
    let store = open(None, 1 << 20);
    let a = owner("a");
    put(&store, &a, json!({"id": "c", "metadata": {}})).await;
    assert!(store.append(&a, "c", vec![stored(&item("i0"))]).await.unwrap());
    assert!(!store.append(&owner("b"), "c", vec![stored(&item("x"))]).await.unwrap());
    save(&store, entry("i1", None, Some("c")), response("r1", "completed", "o1")).await;
    save(&store, entry("i2", None, Some("c")), response("r2", "failed", "o2")).await;
    assert_eq!(history(&store, "c").await.unwrap(), ["i0", "i1", "o1"]);
    // What came later is no history of a response.
    assert!(store.append(&a, "c", vec![stored(&item("i3"))]).await.unwrap());
    assert_eq!(history(&store, "r1").await.unwrap(), ["i0", "i1", "o1"]);
    let page = |after: Option<&str>, descending| {
        let page = PageRequest { limit: 2, after: after.map(str::to_owned), descending };
        store.page(&a, "c", page, 1 << 20)
    };
    let first = page(None, false).await.unwrap().unwrap();
    assert_eq!((ids(&first), first.more), (vec!["i0", "i1"], true));
    let rest = page(Some("i1"), false).await.unwrap().unwrap();
    assert_eq!((ids(&rest), rest.more), (vec!["o1", "i3"], false));
    let back = page(Some("i3"), true).await.unwrap().unwrap();
    assert_eq!(ids(&back), ["o1", "i1"]);
    assert_eq!(ids(&page(None, true).await.unwrap().unwrap()), ["i3", "o1"]);
    assert_eq!(page(Some("x"), true).await.unwrap(), Err(NotFound("x".to_owned())));
    assert!(store.delete_item(&a, "c", "i1").await.unwrap());
    assert_eq!(history(&store, "c").await.unwrap(), ["i0", "o1", "i3"]);
    put(&store, &a, json!({"id": "c", "metadata": {"k": "v"}})).await;
    assert_eq!(get(&store, "a", "c").await.unwrap()["metadata"]["k"], "v");
    assert_eq!(history(&store, "c").await.unwrap(), ["i0", "o1", "i3"]);
}

#[tokio::test]
async fn what_nobody_uses_makes_room() {
    let each = 400;
    let store = open(None, each * 3);
    let filler = "x".repeat(300);
    for n in 0..4 {
        let mut body = response(&format!("r{n}"), "completed", "o");
        body["filler"] = json!(filler);
        save(&store, entry("i", None, None), body).await;
    }
    let mut there = Vec::new();
    for n in 0..4 {
        there.push(get(&store, "a", &format!("r{n}")).await.is_some());
    }
    assert_eq!(there, [false, false, true, true]);
    let bytes = |store: &ResponseStore| -> i64 {
        let db = store.database.lock().unwrap();
        db.connection.query_row("SELECT bytes FROM size", [], |row| row.get(0)).unwrap()
    };
    assert!(bytes(&store) > 2 * 300);
    for n in 2..4 {
        store.delete(&owner("a"), &format!("r{n}")).await.unwrap();
    }
    assert_eq!(bytes(&store), 0);
    // What is older than the limit goes with the next change.
    save(&store, entry("i", None, None), response("old", "completed", "o")).await;
    store
        .database
        .lock()
        .unwrap()
        .connection
        .execute("UPDATE holder SET used = used - 61", [])
        .unwrap();
    assert!(get(&store, "a", "none").await.is_none());
    assert!(get(&store, "a", "old").await.is_none());
}

#[tokio::test]
async fn a_file_outlives_the_process() {
    let name = format!("forebay-store-{}.sqlite", std::process::id());
    let path = std::env::temp_dir().join(name);
    let store = open(Some(&path), 1 << 20);
    save(&store, entry("i1", None, None), response("r1", "completed", "o1")).await;
    save(&store, entry("i2", None, None), response("r2", "in_progress", "o2")).await;
    let second = ResponseStore::at(Some(&path), 1 << 20, Duration::ZERO).unwrap_err().to_string();
    assert!(second.contains("locked"), "{second}");
    drop(store);
    let store = open(Some(&path), 1 << 20);
    assert_eq!(history(&store, "r1").await.unwrap(), ["i1", "o1"]);
    let ended = get(&store, "a", "r2").await.unwrap();
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("failed"), &json!("server_error"))
    );
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", path.display())));
    }
}

#[tokio::test]
async fn what_is_read_at_a_time_is_bounded() {
    let store = open(None, 1 << 20);
    let a = owner("a");
    put(&store, &a, json!({"id": "c", "object": "conversation"})).await;
    let long = |id: &str| json!({"id": id, "type": "message", "content": "x".repeat(1000)});
    let items = (0..8).map(|n| stored(&long(&format!("i{n}")))).collect();
    store.append(&a, "c", items).await.unwrap();
    let read = store.history(&a, "c", 2500).await.unwrap().unwrap();
    let ids_read: Vec<String> = read.items.iter().map(|item| id_of(item)).collect();
    assert_eq!((ids_read, read.whole), (vec!["i6".to_owned(), "i7".to_owned()], false));
    let page = PageRequest { limit: 8, after: None, descending: false };
    let listed = store.page(&a, "c", page.clone(), 2500).await.unwrap().unwrap();
    assert_eq!((ids(&listed), listed.more), (vec!["i0", "i1"], true));
    let listed = store.page(&a, "c", page, 10).await.unwrap().unwrap();
    assert_eq!((ids(&listed), listed.more), (vec!["i0"], true), "a page is never empty");
    // However often the same item is named, each time counts.
    let named = vec!["i3".to_owned(); 3];
    assert_eq!(store.items(&a, named, 2500).await.unwrap(), Err(ItemError::TooLong(2)));
}

#[tokio::test]
async fn long_chains_are_cut() {
    let store = open(None, 1 << 24);
    let mut previous = None::<String>;
    for n in 0..MAX_CHAIN + 10 {
        let id = format!("r{n}");
        let body = json!({"id": id, "object": "response", "status": "completed", "output": []});
        let entry = ResponseEntry {
            input: Arc::default(),
            events: Vec::new(),
            ..entry("i", previous.as_deref(), None)
        };
        save(&store, entry, body).await;
        previous = Some(id);
    }
    let read = store.history(&owner("a"), &previous.unwrap(), 1 << 20).await.unwrap().unwrap();
    assert!(!read.whole);
}
