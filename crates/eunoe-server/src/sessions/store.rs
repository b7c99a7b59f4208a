//! Sessions in one file: what was said, and what is remembered of it.
//!
//! A turn is written as a whole or not at all. Everything carries a checksum; a file of another format, and a session of another
//! model, are refused.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use eunoe_core::{Error, Result};
use eunoe_engine::{Conversation, Engine, Length, Session};
use eunoe_kv::Plan;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError, TransactionError, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Changes whenever what is written does.
const FORMAT: u64 = 1;
/// Bytes of the file that are held in memory.
const CACHE: usize = 16 << 20;
/// Parts after which a memory is written anew as one.
const MOST_PARTS: usize = 16;
/// Most bytes of a name.
const LONGEST_NAME: usize = 64;

const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const HEADERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("headers");
const STATES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("states");
/// By session, part and layer.
const RECORDS: TableDefinition<'_, (&str, u32, u32), &[u8]> = TableDefinition::new("records");

/// All sessions of one file.
pub struct Store {
    /// None while it is opened again.
    database: RwLock<Option<Database>>,
    path: PathBuf,
}

/// All of a session but its memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Which model it is of, and how it computes.
    pub model: String,
    /// The plan, as it was asked for.
    pub plan: String,
    /// Most tokens that it can come to hold.
    pub longest: u32,
    /// Tokens of what counts as its prompt.
    prompt: u32,
    /// What was said.
    pub conversation: Conversation,
    /// Tokens in memory, in their order.
    pub tokens: Vec<u32>,
    /// Messages that were answered.
    pub turns: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub updated: u64,
    /// Bytes of its memory in the file.
    pub bytes: u64,
    parts: Vec<Part>,
    state_sum: [u8; 32],
}

/// Slots that were written together.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Part {
    slots: Range<u32>,
    /// Of each layer's records.
    sums: Vec<[u8; 32]>,
}

impl Header {
    /// A session in which nothing was said.
    pub fn new(model: &str, plan: &Plan, length: Length, conversation: Conversation) -> Self {
        Self {
            model: model.into(),
            plan: plan.text.clone(),
            longest: length.longest,
            prompt: length.prompt,
            conversation,
            tokens: Vec::new(),
            turns: 0,
            created: now(),
            updated: now(),
            bytes: 0,
            parts: Vec::new(),
            state_sum: [0; 32],
        }
    }

    /// How long its sequence can get.
    pub fn length(&self) -> Length {
        Length { prompt: self.prompt, longest: self.longest }
    }

    /// # Errors
    /// It is of another model.
    pub fn check_model(&self, name: &str, model: &str) -> Result<()> {
        if self.model == model {
            return Ok(());
        }
        let why = format!(
            "session `{name}` is of another model or arithmetic (`{}`, here `{model}`): use another name, or delete it",
            self.model
        );
        Err(Error::Invalid(why))
    }
}

impl Store {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// It cannot be had, another process has it, it is damaged, or it has another format.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::Invalid(format!("cannot open the sessions in `{}`: {e}", path.display()))
        };
        let database = database(path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => failed(&"another process has it open"),
            e => failed(&e),
        })?;
        let store = Self { database: RwLock::new(Some(database)), path: path.to_owned() };
        let write = store.write()?;
        {
            let mut about = write.open_table(ABOUT).map_err(|e| failed(&e))?;
            let format = about.get("format").map_err(|e| failed(&e))?.map(|format| format.value());
            match format {
                None => _ = about.insert("format", FORMAT).map_err(|e| failed(&e))?,
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(failed(&format!("it has format {other}, this program reads {FORMAT}")));
                }
            }
        }
        write.commit().map_err(|e| failed(&e))?;
        Ok(store)
    }

    /// A transaction that reads. A file that a full disk has stopped is opened again.
    fn read(&self) -> Result<ReadTransaction> {
        self.begin(|database| database.begin_read())
    }

    fn write(&self) -> Result<WriteTransaction> {
        self.begin(|database| database.begin_write())
    }

    fn begin<T>(&self, of: impl Fn(&Database) -> std::result::Result<T, TransactionError>) -> Result<T> {
        let again = |e: &TransactionError| {
            matches!(e, TransactionError::Storage(StorageError::PreviousIo | StorageError::DatabaseClosed))
        };
        match self.database.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(&of) {
            Some(Ok(begun)) => return Ok(begun),
            Some(Err(e)) if !again(&e) => return Err(self.failed(&e)),
            _ => {}
        }
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // somebody else may have done it meanwhile
        if let Some(Ok(begun)) = open.as_ref().map(&of) {
            return Ok(begun);
        }
        drop(open.take());
        let database = database(&self.path).map_err(|e| self.failed(&e))?;
        let begun = of(&database).map_err(|e| self.failed(&e));
        *open = Some(database);
        begun
    }

    /// # Errors
    /// A name that a session cannot have.
    pub fn check_name(name: &str) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_plain) {
            true => Ok(()),
            false => Err(Error::Invalid(format!(
                "`{name}` is no name of a session: 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.`"
            ))),
        }
    }

    /// All that is known of a session but its memory.
    ///
    /// # Errors
    /// It is damaged, or the file cannot be read.
    pub fn header(&self, name: &str) -> Result<Option<Header>> {
        let read = self.read()?;
        let Some(headers) = opened(read.open_table(HEADERS)).map_err(|e| self.failed(&e))? else {
            return Ok(None);
        };
        let bytes = headers.get(name).map_err(|e| self.failed(&e))?;
        bytes.map(|bytes| self.header_of(name, bytes.value())).transpose()
    }

    /// The names of all sessions and what is known of them, in the order of the names; of a damaged one, why.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn list(&self) -> Result<Vec<(String, Result<Header>)>> {
        let read = self.read()?;
        let Some(headers) = opened(read.open_table(HEADERS)).map_err(|e| self.failed(&e))? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for entry in headers.iter().map_err(|e| self.failed(&e))? {
            let (name, bytes) = entry.map_err(|e| self.failed(&e))?;
            let header = self.header_of(name.value(), bytes.value());
            all.push((name.value().to_owned(), header));
        }
        Ok(all)
    }

    /// Removes a session; `false` if there is none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn delete(&self, name: &str) -> Result<bool> {
        let write = self.write()?;
        let was_there = {
            let mut headers = write.open_table(HEADERS).map_err(|e| self.failed(&e))?;
            let mut states = write.open_table(STATES).map_err(|e| self.failed(&e))?;
            states.remove(name).map_err(|e| self.failed(&e))?;
            self.remove_records(&write, name)?;
            headers.remove(name).map_err(|e| self.failed(&e))?.is_some()
        };
        write.commit().map_err(|e| self.failed(&e))?;
        Ok(was_there)
    }

    /// Writes a turn; `header` is as it was read, with what was said and read since. Once it returns, the turn outlives a crash.
    ///
    /// # Errors
    /// The memory cannot be saved, or the file cannot be written: the session is as it was then.
    pub fn save(&self, name: &str, header: &mut Header, session: &Session) -> Result<()> {
        let mut next = header.clone();
        let appends = session.keeps_records() && next.parts.len() < MOST_PARTS;
        let from = next.parts.last().filter(|_| appends).map_or(0, |part| part.slots.end);
        let state = session.state()?;
        let write = self.write()?;
        if from == 0 {
            self.remove_records(&write, name)?;
            (next.parts, next.bytes) = (Vec::new(), 0);
        }
        let part = next.parts.len() as u32;
        let mut sums = Vec::new();
        {
            let mut records = write.open_table(RECORDS).map_err(|e| self.failed(&e))?;
            for layer in 0..session.layers() {
                let bytes = session.records(layer, from);
                next.bytes += bytes.len() as u64;
                sums.push(sum(&bytes));
                records.insert((name, part, layer as u32), &bytes[..]).map_err(|e| self.failed(&e))?;
            }
            next.parts.push(Part { slots: from..session.kv.seen(), sums });
            next.state_sum = sum(&state);
            next.turns += 1;
            next.updated = now();
            let mut states = write.open_table(STATES).map_err(|e| self.failed(&e))?;
            states.insert(name, &state[..]).map_err(|e| self.failed(&e))?;
            let json = serde_json::to_vec(&next).map_err(|e| self.failed(&e))?;
            let bytes = [&sum(&json)[..], &json].concat();
            let mut headers = write.open_table(HEADERS).map_err(|e| self.failed(&e))?;
            headers.insert(name, &bytes[..]).map_err(|e| self.failed(&e))?;
        }
        write.commit().map_err(|e| self.failed(&e))?;
        *header = next;
        Ok(())
    }

    /// The memory of a session.
    ///
    /// # Errors
    /// It is damaged, of another plan, or the file cannot be read.
    pub fn restore(&self, engine: &Engine, plan: &Plan, name: &str, header: &Header) -> Result<Session> {
        if header.parts.is_empty() {
            return engine.session(plan, header.length());
        }
        let read = self.read()?;
        let states = read.open_table(STATES).map_err(|e| self.failed(&e))?;
        let records = read.open_table(RECORDS).map_err(|e| self.failed(&e))?;
        let state = states.get(name).map_err(|e| self.failed(&e))?;
        let state = state.ok_or_else(|| self.damaged(name, "its state is missing"))?;
        if sum(state.value()) != header.state_sum {
            return Err(self.damaged(name, "the checksum of its state is wrong"));
        }
        let parts: Vec<Range<u32>> = header.parts.iter().map(|part| part.slots.clone()).collect();
        let mut of = |part: usize, layer: usize| {
            let bytes = records.get((name, part as u32, layer as u32)).map_err(|e| self.failed(&e))?;
            let bytes = bytes.ok_or_else(|| self.damaged(name, "records are missing"))?;
            match header.parts[part].sums.get(layer) {
                Some(want) if sum(bytes.value()) == *want => Ok(bytes.value().to_vec()),
                _ => Err(self.damaged(name, "the checksum of its records is wrong")),
            }
        };
        engine.restore(plan, header.length(), state.value(), &parts, &mut of)
    }

    fn remove_records(&self, write: &redb::WriteTransaction, name: &str) -> Result<()> {
        let mut records = write.open_table(RECORDS).map_err(|e| self.failed(&e))?;
        let of = (name, 0, 0)..=(name, u32::MAX, u32::MAX);
        records.retain_in(of, |_, _| false).map_err(|e| self.failed(&e))
    }

    fn header_of(&self, name: &str, bytes: &[u8]) -> Result<Header> {
        let (want, json) =
            bytes.split_at_checked(32).ok_or_else(|| self.damaged(name, "its header is cut"))?;
        if sum(json) != want {
            return Err(self.damaged(name, "the checksum of its header is wrong"));
        }
        serde_json::from_slice(json).map_err(|e| self.damaged(name, &e.to_string()))
    }

    fn failed(&self, e: &dyn std::fmt::Display) -> Error {
        Error::io(
            &self.path,
            io::Error::other(format!("the sessions cannot be read or written: {e}; is the disk full?")),
        )
    }

    fn damaged(&self, name: &str, why: &str) -> Error {
        let path = self.path.display();
        Error::format(format!("session `{name}` in `{path}`"), 0, format!("{why}: delete it and begin anew"))
    }
}

fn database(path: &Path) -> std::result::Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE).create(path)
}

/// A table that may not be there yet.
fn opened<T>(table: std::result::Result<T, TableError>) -> std::result::Result<Option<T>, TableError> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

fn sum(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(turns: u32) -> Header {
        let plan = Plan::parse("full").expect("a plan");
        let length = Length { prompt: 10, longest: 100 };
        Header { turns, ..Header::new("model", &plan, length, Conversation::new(Some("s"))) }
    }

    fn put(store: &Store, name: &str, bytes: &[u8]) {
        let write = store.write().expect("a file");
        write.open_table(HEADERS).expect("a table").insert(name, bytes).expect("room");
        write.commit().expect("room");
    }

    #[test]
    fn what_is_damaged_is_told_and_the_others_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a new file");
        assert!(store.list().expect("readable").is_empty() && store.header("a").expect("readable").is_none());
        let json = serde_json::to_vec(&header(7)).expect("JSON");
        let whole = [&sum(&json)[..], &json].concat();
        put(&store, "whole", &whole);
        put(&store, "cut", &whole[..20]);
        put(&store, "changed", &[&whole[..60], b"?", &whole[61..]].concat());
        let list = store.list().expect("readable");
        let told: Vec<_> = list.iter().map(|(name, header)| (name.as_str(), header.is_ok())).collect();
        assert_eq!(told, [("changed", false), ("cut", false), ("whole", true)]);
        assert_eq!(store.header("whole").expect("whole").map(|header| header.turns), Some(7));
        let why = store.header("changed").expect_err("damaged").to_string();
        assert!(why.contains("checksum") && why.contains("delete it"), "{why}");
        assert!(store.delete("changed").expect("writable") && !store.delete("changed").expect("writable"));
        let other = header(1).check_model("a", "other").expect_err("another model").to_string();
        assert!(other.contains("of another model"), "{other}");
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        let store = Store::open(&path).expect("a new file");
        let write = store.write().expect("a file");
        write.open_table(ABOUT).expect("a table").insert("format", FORMAT + 1).expect("room");
        write.commit().expect("room");
        drop(store);
        let why = Store::open(&path).err().expect("another format").to_string();
        assert!(why.contains("format 2, this program reads 1"), "{why}");
    }
}
