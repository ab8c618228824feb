//! What is kept between requests: responses and conversations, in one SQLite database.
//!
//! A *holder* is a response or a conversation, *items* are what was said in it, oldest first. The
//! items of a response are its own input and output alone: what came before is found through
//! `previous` or the conversation. Everything belongs to the key (`Authorization`) that made it.

mod schema;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde_json::Value;

use crate::config::StoreSettings;
use crate::error::ApiError;

/// Where answers are kept. Cheap to clone; every call works on a thread that may block.
#[derive(Debug, Clone)]
pub struct Store(Arc<Mutex<Db>>);

#[derive(Debug)]
struct Db {
    connection: Connection,
    /// Bytes of JSON that may be held.
    max_bytes: i64,
    /// How long what nobody uses is held.
    max_age: Duration,
}

/// Whose something is: a hash of the key that a request came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(String);

/// A response to keep.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Whose it is.
    pub owner: Owner,
    /// The response that it follows on.
    pub previous: Option<String>,
    /// The conversation that it belongs to.
    pub conversation: Option<String>,
    /// Its own input: items with ids.
    pub input: Vec<Value>,
    /// Whether it can be retrieved; else only its conversation grows.
    pub retrievable: bool,
    /// Its events as JSON, where they can be read again.
    pub events: Vec<Arc<str>>,
}

/// Which items of a holder are asked for.
#[derive(Debug, Clone)]
pub struct Page {
    /// At most this many.
    pub limit: usize,
    /// Those behind the item of this id.
    pub after: Option<String>,
    /// Newest first.
    pub descending: bool,
}

/// Something that a request needs is not there (any more): its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

type Sql<T> = rusqlite::Result<T>;

// === impl Owner ===

impl Owner {
    /// Whoever sends no key is one owner with all others who send none.
    pub fn of(headers: &axum::http::HeaderMap) -> Self {
        let key = headers.get(axum::http::header::AUTHORIZATION);
        let key = key.map_or(&[][..], |value| value.as_bytes());
        Self(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key).simple().to_string())
    }
}

// === impl Store ===

impl Store {
    /// Opens the database, or makes one: in memory where no path is given.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(settings: &StoreSettings) -> Result<Self, rusqlite::Error> {
        let path = Some(&settings.path).filter(|path| !path.as_os_str().is_empty());
        let max_bytes = i64::from(settings.max_mib) << 20;
        let max_age = Duration::from_secs(u64::from(settings.max_age_hours) * 3600);
        Self::at(path.map(std::path::PathBuf::as_path), max_bytes, max_age)
    }

    fn at(path: Option<&Path>, max_bytes: i64, max_age: Duration) -> Result<Self, rusqlite::Error> {
        let mut connection = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        schema::prepare(&mut connection)?;
        Ok(Self(Arc::new(Mutex::new(Db { connection, max_bytes, max_age }))))
    }

    /// Does something in one transaction.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let db = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            // A panic in between rolled its transaction back.
            let mut db = db.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = db.connection.transaction()?;
            let value = f(&transaction)?;
            transaction.commit()?;
            db.make_room()?;
            Ok(value)
        });
        let done = done.await.map_err(|error| ApiError::internal(error.to_string()))?;
        done.map_err(|error: rusqlite::Error| ApiError::internal(format!("the store: {error}")))
    }

    /// Keeps a response, or what has become of it. Its input and output join the conversation once
    /// all is said.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn keep(&self, kept: Kept, mut response: Value) -> Result<(), ApiError> {
        self.run(move |db| {
            let output = response["output"].take();
            let output = output.as_array().map(Vec::as_slice).unwrap_or_default();
            if kept.retrievable {
                let id = response["id"].as_str().unwrap_or_default();
                remove(db, &kept.owner, id)?;
                let (previous, conversation) = (kept.previous.as_ref(), kept.conversation.as_ref());
                db.execute(
                    "INSERT INTO holder(id, owner, used, previous, conversation, body)
                     VALUES (?, ?, ?, ?, ?, ?)",
                    params![id, kept.owner.0, now(), previous, conversation, response.to_string()],
                )?;
                add_items(db, id, &kept.input, false)?;
                add_items(db, id, output, true)?;
                for (number, event) in (0_i64..).zip(&kept.events) {
                    let sql = "INSERT INTO event(holder, number, body) VALUES (?, ?, ?)";
                    db.prepare_cached(sql)?.execute(params![id, number, event])?;
                }
            }
            let is_said = matches!(response["status"].as_str(), Some("completed" | "incomplete"));
            if let Some(conversation) = kept.conversation.as_deref().filter(|_| is_said) {
                // It may have been deleted meanwhile.
                if holder(db, &kept.owner, conversation)?.is_some() {
                    add_items(db, conversation, &kept.input, false)?;
                    add_items(db, conversation, output, true)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The response or conversation of this id, if it is the owner's.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn get(&self, owner: &Owner, id: &str) -> Result<Option<Value>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let Some(mut body) = holder(db, &owner, &id)? else { return Ok(None) };
            if body["object"] == "response" {
                body["output"] = Value::Array(items(db, &id, Some(true))?);
            }
            Ok(Some(body))
        })
        .await
    }

    /// Everything said up to the end of a response or a conversation.
    ///
    /// # Errors
    /// Where the database cannot be read; inside, what is missing.
    pub async fn history(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<Result<Vec<Value>, Missing>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let (mut turns, mut next) = (Vec::new(), Some(id));
            while let Some(id) = next {
                db.execute("UPDATE holder SET used = ? WHERE id = ?", params![now(), id])?;
                let Some((previous, conversation)) = links(db, &owner, &id)? else {
                    return Ok(Err(Missing(id)));
                };
                turns.push(items(db, &id, None)?);
                if let Some(conversation) = conversation {
                    turns.push(before(db, &conversation, &id)?);
                }
                next = previous;
            }
            Ok(Ok(turns.into_iter().rev().flatten().collect()))
        })
        .await
    }

    /// A response's events from this number on, at most `limit`, as JSON; none where they were not
    /// kept.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn events(
        &self,
        owner: &Owner,
        id: &str,
        from: u64,
        limit: u32,
    ) -> Result<Vec<String>, ApiError> {
        let (owner, id) = (owner.0.clone(), id.to_owned());
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.run(move |db| {
            let sql = "SELECT event.body FROM event JOIN holder ON holder.id = event.holder
                       WHERE holder.id = ? AND owner = ? AND number >= ? ORDER BY number LIMIT ?";
            let params = params![id, owner, from, limit];
            db.prepare(sql)?.query_map(params, |row| row.get(0))?.collect()
        })
        .await
    }

    /// Any of the owner's items of this id.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn item(&self, owner: &Owner, id: &str) -> Result<Option<Value>, ApiError> {
        let (owner, id) = (owner.0.clone(), id.to_owned());
        self.run(move |db| {
            db.query_row(
                "SELECT item.body FROM item JOIN holder ON holder.id = item.holder
                 WHERE item.id = ? AND holder.owner = ? LIMIT 1",
                params![id, owner],
                |row| row.get(0).map(json),
            )
            .optional()
        })
        .await
    }

    /// The item of this id in a holder, if it is the owner's.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn item_of(
        &self,
        owner: &Owner,
        holder: &str,
        id: &str,
    ) -> Result<Option<Value>, ApiError> {
        let (owner, holder, id) = (owner.0.clone(), holder.to_owned(), id.to_owned());
        self.run(move |db| {
            db.query_row(
                "SELECT item.body FROM item JOIN holder ON holder.id = item.holder
                 WHERE item.id = ? AND holder.id = ? AND holder.owner = ? LIMIT 1",
                params![id, holder, owner],
                |row| row.get(0).map(json),
            )
            .optional()
        })
        .await
    }

    /// A page of a holder's items, of a response its input's alone, and whether there are more
    /// behind it; `None` without such a holder, and `after` without such an item.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn page(
        &self,
        owner: &Owner,
        id: &str,
        page: Page,
    ) -> Result<Result<(Vec<Value>, bool), Missing>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let Some(body) = holder(db, &owner, &id)? else { return Ok(Err(Missing(id))) };
            let mut all = match body["object"].as_str() {
                Some("response") => items(db, &id, Some(false))?,
                _ => items(db, &id, None)?,
            };
            if page.descending {
                all.reverse();
            }
            if let Some(after) = page.after {
                let Some(at) = all.iter().position(|item| item["id"] == *after) else {
                    return Ok(Err(Missing(after)));
                };
                all.drain(..=at);
            }
            let more = all.len() > page.limit;
            all.truncate(page.limit);
            Ok(Ok((all, more)))
        })
        .await
    }

    /// Removes a response or a conversation; whether it was there.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn delete(&self, owner: &Owner, id: &str) -> Result<bool, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| remove(db, &owner, &id)).await
    }

    /// Makes a conversation, or gives it another body.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn put_conversation(&self, owner: &Owner, body: &Value) -> Result<(), ApiError> {
        let (owner, body) = (owner.0.clone(), body.clone());
        self.run(move |db| {
            db.execute(
                "INSERT INTO holder(id, owner, used, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT(id) DO UPDATE SET used = ?3, body = ?4 WHERE owner = ?2",
                params![body["id"].as_str(), owner, now(), body.to_string()],
            )
            .map(drop)
        })
        .await
    }

    /// Adds items to a conversation; whether it was there.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn extend(
        &self,
        owner: &Owner,
        id: &str,
        items: Vec<Value>,
    ) -> Result<bool, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            if holder(db, &owner, &id)?.is_none() {
                return Ok(false);
            }
            add_items(db, &id, &items, false)?;
            Ok(true)
        })
        .await
    }

    /// Removes an item of a conversation; whether it was there.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn delete_item(&self, owner: &Owner, id: &str, item: &str) -> Result<bool, ApiError> {
        let (owner, id, item) = (owner.clone(), id.to_owned(), item.to_owned());
        self.run(move |db| {
            if holder(db, &owner, &id)?.is_none() {
                return Ok(false);
            }
            let gone = "DELETE FROM item WHERE holder = ? AND id = ?";
            Ok(db.execute(gone, params![id, item])? > 0)
        })
        .await
    }
}

// === impl Db ===

impl Db {
    /// Removes what is too old, then what was not used for longest until the rest has room.
    fn make_room(&mut self) -> Sql<()> {
        let oldest = now() - i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX);
        self.connection.execute("DELETE FROM holder WHERE used < ?", [oldest])?;
        loop {
            let bytes: i64 =
                self.connection.query_row("SELECT bytes FROM size", [], |r| r.get(0))?;
            if bytes <= self.max_bytes {
                return Ok(());
            }
            let oldest = "DELETE FROM holder WHERE rowid =
                          (SELECT rowid FROM holder ORDER BY used, rowid LIMIT 1)";
            if self.connection.execute(oldest, [])? == 0 {
                return Ok(());
            }
        }
    }
}

fn now() -> i64 {
    i64::try_from(crate::convert::now()).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "rows are read by value")]
fn json(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or_default()
}

fn holder(db: &Connection, owner: &Owner, id: &str) -> Sql<Option<Value>> {
    let sql = "SELECT body FROM holder WHERE id = ? AND owner = ?";
    db.query_row(sql, params![id, owner.0], |row| row.get(0).map(json)).optional()
}

/// The response before this one, and its conversation.
type Links = (Option<String>, Option<String>);

fn links(db: &Connection, owner: &Owner, id: &str) -> Sql<Option<Links>> {
    let sql = "SELECT previous, conversation FROM holder WHERE id = ? AND owner = ?";
    db.query_row(sql, params![id, owner.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn remove(db: &Connection, owner: &Owner, id: &str) -> Sql<bool> {
    let sql = "DELETE FROM holder WHERE id = ? AND owner = ?";
    Ok(db.execute(sql, params![id, owner.0])? > 0)
}

fn add_items(db: &Connection, holder: &str, items: &[Value], output: bool) -> Sql<()> {
    let sql = "INSERT INTO item(id, holder, output, body) VALUES (?, ?, ?, ?)";
    let mut insert = db.prepare_cached(sql)?;
    for item in items {
        insert.execute(params![item["id"].as_str(), holder, output, item.to_string()])?;
    }
    Ok(())
}

/// A holder's items; `output` tells which of a response's.
fn items(db: &Connection, holder: &str, output: Option<bool>) -> Sql<Vec<Value>> {
    let sql = "SELECT body FROM item WHERE holder = ?1 AND output = ifnull(?2, output)
               ORDER BY number";
    let mut select = db.prepare_cached(sql)?;
    select.query_map(params![holder, output], |row| row.get(0).map(json))?.collect()
}

/// The items of a conversation that were there before a response of it was kept.
fn before(db: &Connection, conversation: &str, response: &str) -> Sql<Vec<Value>> {
    let sql = "SELECT body FROM item WHERE holder = ? AND number <
               (SELECT min(number) FROM item WHERE holder = ?) ORDER BY number";
    let mut select = db.prepare_cached(sql)?;
    select.query_map(params![conversation, response], |row| row.get(0).map(json))?.collect()
}

#[cfg(test)]
mod tests;
