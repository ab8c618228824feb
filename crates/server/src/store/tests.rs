use serde_json::json;

use super::*;

fn owner(key: &'static str) -> Owner {
    let key = axum::http::HeaderValue::from_static(key);
    Owner::of(&[(axum::http::header::AUTHORIZATION, key)].into_iter().collect())
}

fn open(path: Option<&Path>, max_bytes: i64) -> Store {
    Store::at(path, max_bytes, Duration::from_secs(60)).unwrap()
}

fn item(id: &str) -> Value {
    json!({"id": id, "type": "message"})
}

fn kept(input: &str, previous: Option<&str>, conversation: Option<&str>) -> Kept {
    Kept {
        owner: owner("a"),
        previous: previous.map(str::to_owned),
        conversation: conversation.map(str::to_owned),
        input: vec![item(input)],
        retrievable: true,
        events: vec!["{}".into(), "{\"n\": 1}".into()],
    }
}

fn response(id: &str, status: &str, output: &str) -> Value {
    json!({"id": id, "object": "response", "status": status, "output": [item(output)]})
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["id"].as_str()).collect()
}

async fn history(store: &Store, id: &str) -> Result<Vec<String>, Missing> {
    let items = store.history(&owner("a"), id).await.unwrap()?;
    Ok(ids(&items).into_iter().map(str::to_owned).collect())
}

#[tokio::test]
async fn responses_follow_on_each_other() {
    let store = open(None, 1 << 20);
    store.keep(kept("i1", None, None), response("r1", "completed", "o1")).await.unwrap();
    store.keep(kept("i2", Some("r1"), None), response("r2", "in_progress", "o0")).await.unwrap();
    store.keep(kept("i2", Some("r1"), None), response("r2", "completed", "o2")).await.unwrap();
    assert_eq!(history(&store, "r2").await.unwrap(), ["i1", "o1", "i2", "o2"]);
    let got = store.get(&owner("a"), "r2").await.unwrap().unwrap();
    assert_eq!(got, response("r2", "completed", "o2"));
    assert_eq!(store.events(&owner("a"), "r2", 1, 9).await.unwrap(), ["{\"n\": 1}"]);
    assert_eq!(store.item(&owner("a"), "o1").await.unwrap(), Some(item("o1")));
    // Another key sees nothing of it.
    assert_eq!(store.get(&owner("b"), "r2").await.unwrap(), None);
    assert_eq!(store.item(&owner("b"), "o1").await.unwrap(), None);
    assert_eq!(store.events(&owner("a"), "r2", 0, 1).await.unwrap(), ["{}"]);
    assert!(store.events(&owner("b"), "r2", 0, 9).await.unwrap().is_empty());
    assert!(!store.delete(&owner("b"), "r1").await.unwrap());
    assert!(store.delete(&owner("a"), "r1").await.unwrap());
    assert!(!store.delete(&owner("a"), "r1").await.unwrap());
    assert_eq!(history(&store, "r2").await, Err(Missing("r1".to_owned())));
    assert_eq!(store.item(&owner("a"), "o1").await.unwrap(), None);
}

#[tokio::test]
async fn conversations_grow_by_what_was_said() {
    let store = open(None, 1 << 20);
    let a = owner("a");
    store.put_conversation(&a, &json!({"id": "c", "metadata": {}})).await.unwrap();
    assert!(store.extend(&a, "c", vec![item("i0")]).await.unwrap());
    assert!(!store.extend(&owner("b"), "c", vec![item("x")]).await.unwrap());
    store.keep(kept("i1", None, Some("c")), response("r1", "completed", "o1")).await.unwrap();
    store.keep(kept("i2", None, Some("c")), response("r2", "failed", "o2")).await.unwrap();
    assert_eq!(history(&store, "c").await.unwrap(), ["i0", "i1", "o1"]);
    // What came later is no history of a response.
    assert!(store.extend(&a, "c", vec![item("i3")]).await.unwrap());
    assert_eq!(history(&store, "r1").await.unwrap(), ["i0", "i1", "o1"]);
    let page = |after: Option<&str>, descending| {
        store.page(&a, "c", Page { limit: 2, after: after.map(str::to_owned), descending })
    };
    let (items, more) = page(None, false).await.unwrap().unwrap();
    assert_eq!((ids(&items), more), (vec!["i0", "i1"], true));
    let (items, more) = page(Some("i1"), false).await.unwrap().unwrap();
    assert_eq!((ids(&items), more), (vec!["o1", "i3"], false));
    let (items, _) = page(Some("i3"), true).await.unwrap().unwrap();
    assert_eq!(ids(&items), ["o1", "i1"]);
    assert_eq!(page(Some("x"), true).await.unwrap(), Err(Missing("x".to_owned())));
    assert!(store.delete_item(&a, "c", "i1").await.unwrap());
    assert_eq!(history(&store, "c").await.unwrap(), ["i0", "o1", "i3"]);
    store.put_conversation(&a, &json!({"id": "c", "metadata": {"k": "v"}})).await.unwrap();
    assert_eq!(store.get(&a, "c").await.unwrap().unwrap()["metadata"]["k"], "v");
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
        store.keep(kept("i", None, None), body).await.unwrap();
    }
    let mut there = Vec::new();
    for n in 0..4 {
        there.push(store.get(&owner("a"), &format!("r{n}")).await.unwrap().is_some());
    }
    assert_eq!(there, [false, false, true, true]);
    let bytes = |store: &Store| -> i64 {
        let db = store.0.lock().unwrap();
        db.connection.query_row("SELECT bytes FROM size", [], |row| row.get(0)).unwrap()
    };
    assert!(bytes(&store) > 2 * 300);
    for n in 2..4 {
        store.delete(&owner("a"), &format!("r{n}")).await.unwrap();
    }
    assert_eq!(bytes(&store), 0);
    // What is older than the limit goes with the next change.
    store.keep(kept("i", None, None), response("old", "completed", "o")).await.unwrap();
    store.0.lock().unwrap().connection.execute("UPDATE holder SET used = used - 61", []).unwrap();
    assert!(store.get(&owner("a"), "none").await.unwrap().is_none());
    assert!(store.get(&owner("a"), "old").await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_outlives_the_process() {
    let name = format!("forebay-store-{}.sqlite", std::process::id());
    let path = std::env::temp_dir().join(name);
    let store = open(Some(&path), 1 << 20);
    store.keep(kept("i1", None, None), response("r1", "completed", "o1")).await.unwrap();
    store.keep(kept("i2", None, None), response("r2", "in_progress", "o2")).await.unwrap();
    let second = Store::at(Some(&path), 1 << 20, Duration::ZERO).unwrap_err().to_string();
    assert!(second.contains("locked"), "{second}");
    drop(store);
    let store = open(Some(&path), 1 << 20);
    assert_eq!(history(&store, "r1").await.unwrap(), ["i1", "o1"]);
    let ended = store.get(&owner("a"), "r2").await.unwrap().unwrap();
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("failed"), &json!("server_error"))
    );
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", path.display())));
    }
}
