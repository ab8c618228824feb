//! The database under the response store: one transaction at a time, and what goes when it is full.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::types::{History, Owner, StoredItem};

pub(super) type Sql<T> = rusqlite::Result<T>;

/// The response before one, and its conversation: their ids.
pub(super) type Links = (Option<String>, Option<String>);

#[derive(Debug)]
pub(super) struct Database {
    pub connection: Connection,
    /// Bytes of JSON that may be stored.
    pub max_bytes: i64,
    /// How long what is not used is stored.
    pub max_age: Duration,
}

/// Reads items for a history, newest first, within a number of bytes.
pub(super) struct HistoryReader {
    items: Vec<String>,
    /// Bytes of JSON that may still be read.
    bytes_left: usize,
    /// Whether nothing was left out so far.
    whole: bool,
}

// === impl Database ===

impl Database {
    /// Runs `f` in one transaction, then evicts.
    pub(super) fn transact<T>(&mut self, f: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Sql<T> {
        let transaction = self.connection.transaction()?;
        let value = f(&transaction)?;
        transaction.commit()?;
        self.evict()?;
        Ok(value)
    }

    /// Deletes what is too old, then what was not used for longest, until the rest is small enough.
    fn evict(&mut self) -> Sql<()> {
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

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn exists(db: &Connection, owner: &Owner, id: &str) -> Sql<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM holder WHERE id = ? AND owner = ?)";
    db.query_row(sql, params![id, owner.0], |row| row.get(0))
}

pub(super) fn links(db: &Connection, owner: &Owner, id: &str) -> Sql<Option<Links>> {
    let sql = "SELECT previous, conversation FROM holder WHERE id = ? AND owner = ?";
    db.query_row(sql, params![id, owner.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

pub(super) fn remove(db: &Connection, owner: &Owner, id: &str) -> Sql<bool> {
    let sql = "DELETE FROM holder WHERE id = ? AND owner = ?";
    Ok(db.execute(sql, params![id, owner.0])? > 0)
}

pub(super) fn add_items(
    db: &Connection,
    holder: &str,
    items: &[StoredItem],
    output: bool,
) -> Sql<()> {
    let sql = "INSERT INTO item(id, holder, output, body) VALUES (?, ?, ?, ?)";
    let mut insert = db.prepare_cached(sql)?;
    for StoredItem { id, json } in items {
        insert.execute(params![id, holder, output, json])?;
    }
    Ok(())
}

// === impl HistoryReader ===

impl HistoryReader {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { items: Vec::new(), bytes_left: max_bytes, whole: true }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The items, oldest first.
    pub(super) fn finish(mut self) -> History {
        self.items.reverse();
        History { items: self.items, whole: self.whole }
    }

    /// Reads the items of a response or a conversation (`holder`); with `response`, those of a conversation
    /// that were there before that response was stored.
    pub(super) fn read(
        &mut self,
        db: &Connection,
        holder: &str,
        response: Option<&str>,
    ) -> Sql<()> {
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
            let Some(left) = self.bytes_left.checked_sub(item.len()) else {
                self.whole = false;
                break;
            };
            self.bytes_left = left;
            self.items.push(item);
        }
        Ok(())
    }
}
