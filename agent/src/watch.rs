//! Hearing that a file is another one, when it is complete.
//!
//! Editors, roll-outs and Kubernetes write a file in pieces, put another one in its place, point a link elsewhere, or rename a whole
//! directory. So every directory on the way to the file is watched, through all links, but for the names on that way only; and what was
//! heard counts when two looks at the file agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use inotify::{Event, EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

/// The time between two looks that have to agree.
const SETTLE: Duration = Duration::from_millis(200);
/// How often it is looked without having heard anything: not all file systems tell.
const AGAIN: Duration = Duration::from_secs(30);
/// Looks that did not agree with the one before, after which it is told.
const RESTLESS: u32 = 50;
/// Links that are followed; the kernel follows no more.
const LINKS: usize = 40;

/// What changes the way to a file, or the file.
const EVENTS: WatchMask = WatchMask::CLOSE_WRITE
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE);

/// Which file is there: device, number, length, last change of its content and of itself.
type Look = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// The directories on the way to a file.
type Direction = BTreeMap<PathBuf, Stop>;

/// A directory on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stop {
    /// Device and number: another directory may take its name.
    identity: Option<(u64, u64)>,
    /// The names that lead on.
    names: BTreeSet<OsString>,
}

/// Watches a file, which need not be there.
pub struct FileWatch {
    path: PathBuf,
    way: Direction,
    /// Nothing if the kernel has no room for another watch.
    events: Option<Events>,
    again: Interval,
    /// What is looked at a second time, and when.
    settling: Option<(Look, Instant)>,
    restless: u32,
    /// Somebody asks for it, changed or not.
    asked: bool,
    /// What was there when it was told last.
    told: Look,
}

struct Events {
    stream: EventStream<[u8; 4096]>,
    names: BTreeMap<WatchDescriptor, BTreeSet<OsString>>,
}

impl FileWatch {
    /// Watches from now on; in a Tokio runtime. It reports a first change at once: the caller may not have read the file yet.
    pub fn new(path: &Path) -> Self {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            way: Direction::new(),
            events: None,
            again,
            settling: None,
            restless: 0,
            asked: false,
            told: None,
        };
        watch.follow_way();
        watch.ask();
        watch
    }

    /// Has [`Self::changed`] return soon, whether the file is another one or not.
    pub fn ask(&mut self) {
        self.asked = true;
        self.settle();
    }

    /// Returns when the file is another one, or is gone, and rests. Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) {
        loop {
            let Some((before, due)) = self.settling else {
                self.heard().await;
                self.settle();
                continue;
            };
            sleep_until(due).await;
            let now = look(&self.path);
            if now != before {
                self.restless += 1;
                if self.restless == RESTLESS {
                    log::warn!(
                        "{} changes all the time; it is read when it rests",
                        self.path.display()
                    );
                }
                self.settle();
                continue;
            }
            (self.settling, self.restless) = (None, 0);
            if std::mem::take(&mut self.asked) || now != self.told {
                self.told = now;
                return;
            }
        }
    }

    /// Whether the file is still what it was when it was told.
    pub fn is_as_told(&self) -> bool {
        look(&self.path) == self.told
    }

    fn settle(&mut self) {
        self.settling = Some((look(&self.path), Instant::now() + SETTLE));
    }

    /// Waits for an event on the way, or until it is time to look without one.
    async fn heard(&mut self) {
        loop {
            let Some(events) = &mut self.events else {
                self.again.tick().await;
                self.follow_way();
                return;
            };
            tokio::select! {
                _ = self.again.tick() => {
                    if look(&self.path) == self.told {
                        continue;
                    }
                }
                event = events.stream.next() => match event {
                    Some(Ok(event)) if !concerns(&events.names, &self.way, &event) => continue,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => self.events = None,
                }
            }
            // What happened at the same time counts as one.
            if let Some(events) = &mut self.events {
                while let Some(Some(Ok(_))) = events.stream.next().now_or_never() {}
            }
            self.follow_way();
            return;
        }
    }

    /// Watches the way as it is now.
    fn follow_way(&mut self) {
        let way = way(&self.path);
        if way == self.way && self.events.is_some() {
            return;
        }
        // The new watches are there before the old ones go, and the file is looked at after that.
        match Events::open(&way) {
            Ok(events) => self.events = Some(events),
            Err(error) => {
                log::debug!("Cannot watch {}: {error}", self.path.display());
                self.events = None;
            }
        }
        self.way = way;
    }
}

impl Events {
    fn open(way: &Direction) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut names = BTreeMap::new();
        for (directory, stop) in way {
            match inotify.watches().add(directory, EVENTS) {
                Ok(watch) => {
                    names
                        .entry(watch)
                        .or_insert_with(BTreeSet::new)
                        .extend(stop.names.iter().cloned());
                }
                // It went just now, which is an event of the directory above.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            stream: inotify.into_event_stream([0; 4096])?,
            names,
        })
    }
}

/// Whether an event is one of the way. A new file that is not written yet is none; its end of writing will be.
fn concerns(
    names: &BTreeMap<WatchDescriptor, BTreeSet<OsString>>,
    way: &Direction,
    event: &Event<OsString>,
) -> bool {
    let Some(name) = &event.name else {
        // Lost events, or a directory that is gone.
        return true;
    };
    let is_named = names
        .get(&event.wd)
        .is_none_or(|names| names.contains(name));
    is_named && !(event.mask.contains(EventMask::CREATE) && is_new_file(way, name))
}

fn is_new_file(way: &Direction, name: &OsStr) -> bool {
    let directories = way.iter().filter(|(_, stop)| stop.names.contains(name));
    let mut files = directories.filter_map(|(directory, _)| {
        let found = fs::symlink_metadata(directory.join(name)).ok()?;
        Some(found.is_file() && found.nlink() == 1)
    });
    files.next().unwrap_or(false)
}

fn look(path: &Path) -> Look {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.len(),
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    ))
}

/// The directories on the way to a file as far as it exists, with the names that lead on from each.
fn way(path: &Path) -> Direction {
    let mut way = Direction::new();
    let mut directory = PathBuf::from("/");
    let mut rest: Vec<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            directory.pop();
            continue;
        }
        let stop = way.entry(directory.clone()).or_default();
        let found = fs::metadata(&directory).ok();
        stop.identity = found.map(|found| (found.dev(), found.ino()));
        stop.names.insert(name.clone());
        let next = directory.join(&name);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS => {
                links += 1;
                if target.is_absolute() {
                    directory = PathBuf::from("/");
                }
                rest.extend(names(&target));
            }
            _ => directory = next,
        }
        if !rest.is_empty() && !directory.is_dir() {
            break;
        }
    }
    way
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, os::unix::fs::symlink};

    use tokio::time::timeout;

    use super::*;

    /// Longer than it takes to notice and to settle, for what must not be noticed.
    const LONG: Duration = Duration::from_millis(900);
    const DEADLINE: Duration = Duration::from_secs(5);

    async fn changes(watch: &mut FileWatch) -> bool {
        timeout(LONG, watch.changed()).await.is_ok()
    }

    async fn change(watch: &mut FileWatch, what: &str) {
        let changed = timeout(DEADLINE, watch.changed()).await;
        assert!(changed.is_ok(), "{what}");
    }

    #[tokio::test]
    async fn is_told_when_the_file_rests_and_for_its_own_name_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.toml");
        let mut watch = FileWatch::new(&path);
        change(&mut watch, "the first time").await;
        assert!(!changes(&mut watch).await, "nothing happened");

        fs::write(&path, "one").unwrap();
        change(&mut watch, "a new file").await;
        assert!(watch.is_as_told());

        // In pieces, while files beside it come and go.
        let mut file = File::create(&path).unwrap();
        for _ in 0..6 {
            file.write_all(b"piece").unwrap();
            fs::write(home.path().join("other"), "x").unwrap();
            let told = timeout(Duration::from_millis(100), watch.changed()).await;
            assert!(told.is_err(), "half a file was told");
        }
        drop(file);
        change(&mut watch, "a whole file").await;

        fs::write(home.path().join("new"), "two").unwrap();
        fs::rename(home.path().join("new"), &path).unwrap();
        change(&mut watch, "another file in its place").await;
        fs::write(home.path().join("other"), "x").unwrap();
        assert!(!changes(&mut watch).await, "a file beside it");
        fs::remove_file(&path).unwrap();
        change(&mut watch, "it is gone").await;
        watch.ask();
        change(&mut watch, "asked").await;
    }

    #[tokio::test]
    async fn follows_links_and_directories_that_are_renamed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for name in ["one", "two", "three"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("c.toml"), name).unwrap();
        }
        symlink("one", at("data")).unwrap();
        fs::create_dir(at("etc")).unwrap();
        symlink("../data/c.toml", at("etc/c.toml")).unwrap();
        let path = at("etc/c.toml");
        let mut watch = FileWatch::new(&path);
        change(&mut watch, "the first time").await;

        // In another directory than the link's.
        fs::write(at("one/c.toml"), "more").unwrap();
        change(&mut watch, "the file behind the links").await;
        symlink("two", at("data.new")).unwrap();
        fs::rename(at("data.new"), at("data")).unwrap();
        change(&mut watch, "a link in the middle").await;
        fs::write(at("one/c.toml"), "not on the way any more").unwrap();
        assert!(!changes(&mut watch).await);
        fs::rename(at("two"), at("old")).unwrap();
        fs::rename(at("three"), at("two")).unwrap();
        change(&mut watch, "another directory in its place").await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        fs::write(&path, "through the links").unwrap();
        change(&mut watch, "after all that").await;
    }
}
