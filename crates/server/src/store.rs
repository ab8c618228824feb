//! What is kept between requests: responses and conversations, in one SQLite database.
//!
//! A *holder* is a response or a conversation, *items* are what was said in it, oldest first. The
//! items of a response are its own input and output alone: what came before is found through
//! `previous` or the conversation. Everything belongs to the key (`Authorization`) that made it.

mod schema;
mod stored;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, params};
use serde_json::Value;

pub(crate) use self::stored::{StoredItem, StoredResponse};

use crate::config::StoreSettings;
use crate::error::ApiError;
use crate::pool::{Lane, Priority};

/// Where answers are kept. Cheap to clone. Every call works on the store's own thread, one at a time,
/// and what is read stays JSON text: a tree would take many times its memory.
#[derive(Debug, Clone)]
pub struct Store {
    /// Guards the connection, for one transaction.
    db: Arc<Mutex<Db>>,
    thread: Arc<Lane>,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CannotOpen {
    /// What SQLite says.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// The operating system has no threads left.
    #[error("no thread can be started: {0}")]
    Thread(rayon::ThreadPoolBuildError),
}

const FULL: &str = "The disk on which responses and conversations are kept is full.";

/// What clients hear of what SQLite says.
fn refused(error: &rusqlite::Error) -> ApiError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ApiError::unavailable("store_full", FULL),
        _ => ApiError::internal(format!("the store: {error}")),
    }
}

/// Calls that may wait for the store's thread or run on it.
const MAX_WAITING: usize = 256;
/// Responses that one request may follow on through `previous`.
const MAX_CHAIN: usize = 4096;

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
    pub input: Arc<[StoredItem]>,
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

/// Part of a holder's items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Each item's id and JSON.
    pub items: Vec<(String, String)>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// What was said before, as JSON, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The items.
    pub items: Vec<String>,
    /// Whether it is all there was, or its end.
    pub whole: bool,
}

/// A response or a conversation as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `response` or `conversation`.
    pub object: String,
    /// Whether it was made in the background.
    pub background: bool,
    /// All of it as JSON.
    pub json: String,
}

/// Why items cannot be had: the number of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoItem {
    /// There is none of its id.
    Missing(usize),
    /// All up to it are more than may be read.
    TooLong(usize),
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
    /// [`CannotOpen`]
    pub fn open(settings: &StoreSettings) -> Result<Self, CannotOpen> {
        let path = Some(&settings.path).filter(|path| !path.as_os_str().is_empty());
        let max_bytes = i64::from(settings.max_mib) << 20;
        let max_age = Duration::from_secs(u64::from(settings.max_age_hours) * 3600);
        Self::at(path.map(std::path::PathBuf::as_path), max_bytes, max_age)
    }

    fn at(path: Option<&Path>, max_bytes: i64, max_age: Duration) -> Result<Self, CannotOpen> {
        let mut connection = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        schema::prepare(&mut connection)?;
        let db = Arc::new(Mutex::new(Db { connection, max_bytes, max_age }));
        let thread =
            Lane::new("store", 1, MAX_WAITING, Priority::Normal).map_err(CannotOpen::Thread)?;
        Ok(Self { db, thread: Arc::new(thread) })
    }

    /// Does something in one transaction.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let db = Arc::clone(&self.db);
        let done = self.thread.run(move || {
            // A panic in between rolled its transaction back.
            let mut db = db.lock().unwrap_or_else(PoisonError::into_inner);
            let done = db.transact(f);
            done.map_err(|error| refused(&error))
        });
        done.await
    }

    /// Keeps a response, or what has become of it. Its input and output join the conversation once
    /// all is said.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn keep(&self, kept: Kept, response: StoredResponse) -> Result<(), ApiError> {
        self.run(move |db| {
            let StoredResponse { id, complete, body, output } = &response;
            if kept.retrievable {
                remove(db, &kept.owner, id)?;
                let (previous, conversation) = (kept.previous.as_ref(), kept.conversation.as_ref());
                db.execute(
                    "INSERT INTO holder(id, owner, used, previous, conversation, body)
                     VALUES (?, ?, ?, ?, ?, ?)",
                    params![id, kept.owner.0, now(), previous, conversation, body],
                )?;
                add_items(db, id, &kept.input, false)?;
                add_items(db, id, output, true)?;
                for (number, event) in (0_i64..).zip(&kept.events) {
                    let sql = "INSERT INTO event(holder, number, body) VALUES (?, ?, ?)";
                    db.prepare_cached(sql)?.execute(params![id, number, event])?;
                }
            }
            if let Some(conversation) = kept.conversation.as_deref().filter(|_| *complete) {
                // It may have been deleted meanwhile.
                if exists(db, &kept.owner, conversation)? {
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
    pub async fn get(&self, owner: &Owner, id: &str) -> Result<Option<Holder>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let sql = "SELECT ifnull(body ->> '$.object', ''), ifnull(body ->> '$.background', 0),
                           iif(body ->> '$.object' = 'response',
                               json_set(body, '$.output', json((
                                   SELECT json_group_array(json(body)) FROM (
                                       SELECT body FROM item WHERE item.holder = holder.id
                                       AND output ORDER BY number)))),
                               body)
                       FROM holder WHERE id = ? AND owner = ?";
            let holder = |row: &rusqlite::Row<'_>| {
                Ok(Holder { object: row.get(0)?, background: row.get(1)?, json: row.get(2)? })
            };
            db.prepare_cached(sql)?.query_row(params![id, owner.0], holder).optional()
        })
        .await
    }

    /// What a response or a conversation is, without reading it: its `object`, and whether it was made
    /// in the background.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn kind(&self, owner: &Owner, id: &str) -> Result<Option<(String, bool)>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let sql = "SELECT ifnull(body ->> '$.object', ''), ifnull(body ->> '$.background', 0)
                       FROM holder WHERE id = ? AND owner = ?";
            let kind = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            db.prepare_cached(sql)?.query_row(params![id, owner.0], kind).optional()
        })
        .await
    }

    /// Everything said up to the end of a response or a conversation, as much of its end as has at most
    /// `max_bytes` of JSON.
    ///
    /// # Errors
    /// Where the database cannot be read; inside, what is missing.
    pub async fn history(
        &self,
        owner: &Owner,
        id: &str,
        max_bytes: usize,
    ) -> Result<Result<History, Missing>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let mut collector =
                HistoryCollector { items: Vec::new(), room: max_bytes, whole: true };
            let mut next = Some(id);
            for _ in 0..MAX_CHAIN {
                let Some(id) = next.take().filter(|_| collector.whole) else { break };
                db.execute("UPDATE holder SET used = ? WHERE id = ?", params![now(), id])?;
                let Some((previous, conversation)) = links(db, &owner, &id)? else {
                    return Ok(Err(Missing(id)));
                };
                collector.read(db, &id, None)?;
                if let Some(conversation) = conversation {
                    collector.read(db, &conversation, Some(&id))?;
                }
                next = previous;
            }
            collector.items.reverse();
            let whole = collector.whole && next.is_none();
            Ok(Ok(History { items: collector.items, whole }))
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

    /// The owner's items of these ids as JSON, in their order, up to `max_bytes`; inside, the number of
    /// the first one that is not there or has no room.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn items(
        &self,
        owner: &Owner,
        ids: Vec<String>,
        max_bytes: usize,
    ) -> Result<Result<Vec<String>, NoItem>, ApiError> {
        let owner = owner.0.clone();
        self.run(move |db| {
            let sql = "SELECT item.body FROM item JOIN holder ON holder.id = item.holder
                       WHERE item.id = ? AND holder.owner = ? LIMIT 1";
            let mut select = db.prepare_cached(sql)?;
            let (mut items, mut room) = (Vec::with_capacity(ids.len()), max_bytes);
            for (at, id) in ids.iter().enumerate() {
                let item = select.query_row(params![id, owner], |row| row.get::<_, String>(0));
                let Some(item) = item.optional()? else { return Ok(Err(NoItem::Missing(at))) };
                match room.checked_sub(item.len()) {
                    Some(left) => room = left,
                    None => return Ok(Err(NoItem::TooLong(at))),
                }
                items.push(item);
            }
            Ok(Ok(items))
        })
        .await
    }

    /// The item of this id in a holder as JSON, if it is the owner's.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn item_of(
        &self,
        owner: &Owner,
        holder: &str,
        id: &str,
    ) -> Result<Option<String>, ApiError> {
        let (owner, holder, id) = (owner.0.clone(), holder.to_owned(), id.to_owned());
        self.run(move |db| {
            db.query_row(
                "SELECT item.body FROM item JOIN holder ON holder.id = item.holder
                 WHERE item.id = ? AND holder.id = ? AND holder.owner = ? LIMIT 1",
                params![id, holder, owner],
                |row| row.get(0),
            )
            .optional()
        })
        .await
    }

    /// A page of a holder's items, of a response its input's alone; `None` without such a holder, and
    /// `after` without such an item. A page is shorter where its items would have more than `max_bytes`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn page(
        &self,
        owner: &Owner,
        id: &str,
        page: Page,
        max_bytes: usize,
    ) -> Result<Result<Listed, Missing>, ApiError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let object: Option<String> = db
                .query_row(
                    "SELECT ifnull(body ->> '$.object', '') FROM holder WHERE id = ? AND owner = ?",
                    params![id, owner.0],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(object) = object else { return Ok(Err(Missing(id))) };
            let of_output = (object == "response").then_some(false);
            let from = match page.after {
                None if page.descending => i64::MAX,
                None => i64::MIN,
                Some(after) => {
                    let sql = "SELECT number FROM item WHERE holder = ?1 AND id = ?2
                               AND output = ifnull(?3, output)";
                    let at = db.query_row(sql, params![id, after, of_output], |row| row.get(0));
                    let Some(at) = at.optional()? else { return Ok(Err(Missing(after))) };
                    at
                }
            };
            let (side, order) = if page.descending { ("<", "DESC") } else { (">", "ASC") };
            let sql = format!(
                "SELECT ifnull(id, ''), body FROM item WHERE holder = ?1 AND number {side} ?2
                 AND output = ifnull(?3, output) ORDER BY number {order}"
            );
            let mut select = db.prepare_cached(&sql)?;
            let mut rows = select.query(params![id, from, of_output])?;
            let (mut items, mut room) = (Vec::<(String, String)>::new(), max_bytes);
            while let Some(row) = rows.next()? {
                let item: (String, String) = (row.get(0)?, row.get(1)?);
                let fits = item.1.len() <= room;
                if items.len() == page.limit || !fits && !items.is_empty() {
                    return Ok(Ok(Listed { items, more: true }));
                }
                room = room.saturating_sub(item.1.len());
                items.push(item);
            }
            Ok(Ok(Listed { items, more: false }))
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
            if !exists(db, &owner, &id)? {
                return Ok(false);
            }
            let items: Vec<StoredItem> = items.iter().map(StoredItem::of).collect();
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
            if !exists(db, &owner, &id)? {
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
    /// Does something in one transaction.
    fn transact<T>(&mut self, f: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Sql<T> {
        let transaction = self.connection.transaction()?;
        let value = f(&transaction)?;
        transaction.commit()?;
        self.make_room()?;
        Ok(value)
    }

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

fn exists(db: &Connection, owner: &Owner, id: &str) -> Sql<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM holder WHERE id = ? AND owner = ?)";
    db.query_row(sql, params![id, owner.0], |row| row.get(0))
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

fn add_items(db: &Connection, holder: &str, items: &[StoredItem], output: bool) -> Sql<()> {
    let sql = "INSERT INTO item(id, holder, output, body) VALUES (?, ?, ?, ?)";
    let mut insert = db.prepare_cached(sql)?;
    for StoredItem { id, json } in items {
        insert.execute(params![id, holder, output, json])?;
    }
    Ok(())
}

/// Collects items for a history, collector first, as long as there is room for them.
struct HistoryCollector {
    items: Vec<String>,
    /// Bytes of JSON that may still be read.
    room: usize,
    /// Whether everything so far had room.
    whole: bool,
}

impl HistoryCollector {
    /// Reads a holder's items: with `response` those of a conversation that were there before that
    /// response was kept.
    fn read(&mut self, db: &Connection, holder: &str, response: Option<&str>) -> Sql<()> {
        let sql = match response {
            None => "SELECT body FROM item WHERE holder = ?1 AND ?2 IS NULL ORDER BY number DESC",
            Some(_) => {
                "SELECT body FROM item WHERE holder = ?1 AND number <
                 (SELECT min(number) FROM item WHERE holder = ?2) ORDER BY number DESC"
            }
        };
        let mut select = db.prepare_cached(sql)?;
        let mut rows = select.query(params![holder, response])?;
        while let Some(row) = rows.next()? {
            let item: String = row.get(0)?;
            let Some(left) = self.room.checked_sub(item.len()) else {
                self.whole = false;
                break;
            };
            self.room = left;
            self.items.push(item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
