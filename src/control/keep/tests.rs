use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::policy::{Ban, Caps, Offence};
use crate::session::{ContextParts, Habits, Snapshot, Snapshots};

fn snapshot(path: Option<&Path>) -> Snapshot {
    let mut config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
    config.ban.file = path.map(Path::to_owned);
    Snapshot::new(1, Arc::new(config))
}

fn a_context(path: Option<&Path>) -> (Arc<Context>, Snapshots) {
    let snapshots = Snapshots::new(snapshot(path));
    let parts = ContextParts {
        snapshots: snapshots.clone(),
        caps: Caps { total: 9, reserve: 0, per_address: 9, per_subnet: 9 },
        ports: None,
        strangers: mpsc::channel(1).0,
        habits: Habits::default(),
    };
    (Arc::new(Context::new(parts)), snapshots)
}

fn ban(context: &Context, net: &str) {
    let now = context.speakers.now();
    let (net, until) = (net.parse().unwrap(), now.after(Duration::from_mins(1)));
    let ban = Ban { net, since: now, until, times: 1, offence: Offence::Malformed };
    context.speakers.offenders().restore([Record::Ban(ban)], now);
}

fn bans(context: &Context) -> Vec<String> {
    let bans = context.speakers.offenders().bans(context.speakers.now());
    bans.iter().map(|ban| ban.net.to_string()).collect()
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    (folder, path)
}

/// Lets the keeper end as the guard does.
async fn end(context: &Arc<Context>) {
    let stop = CancellationToken::new();
    stop.cancel();
    keep_bans(Arc::clone(context), stop).await;
}

#[tokio::test]
async fn the_next_guard_knows_the_bans_of_the_last() {
    let (_folder, path) = folder();
    let (first, _) = a_context(Some(&path));
    recall_bans(&first).await;
    end(&first).await;
    assert!(!path.exists(), "there was nothing to keep");
    ban(&first, "192.0.2.7/32");
    ban(&first, "2001:db8::/64");
    end(&first).await;
    let (next, _) = a_context(Some(&path));
    recall_bans(&next).await;
    assert_eq!(bans(&next), bans(&first));
    assert_eq!(bans(&next).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_has_changed_is_written_within_ten_seconds_and_nothing_else_is() {
    let (_folder, path) = folder();
    let (context, _) = a_context(Some(&path));
    let mut keeper = Keeper::new(&context);
    keeper.keep(&context).await;
    assert!(!path.exists());
    ban(&context, "192.0.2.7/32");
    keeper.keep(&context).await;
    fs::remove_file(&path).unwrap();
    keeper.keep(&context).await;
    assert!(!path.exists(), "nothing has changed");
    context.speakers.offenders().pardon("192.0.2.7".parse::<std::net::IpAddr>().unwrap().into(), Moment(0));
    keeper.keep(&context).await;
    assert_eq!(file::read(&path).unwrap().unwrap(), []);
}

#[tokio::test]
async fn a_reload_moves_the_file() {
    let (folder, path) = folder();
    let (context, snapshots) = a_context(None);
    let mut keeper = Keeper::new(&context);
    ban(&context, "192.0.2.7/32");
    keeper.keep(&context).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    for path in [path.clone(), folder.path().join("other")] {
        snapshots.publish(|_| snapshot(Some(&path)));
        keeper.keep(&context).await;
        assert_eq!(file::read(&path).unwrap().unwrap().len(), 1);
    }
    snapshots.publish(|_| snapshot(None));
    keeper.keep(&context).await;
    assert_eq!(keeper.kept, None);
}

#[tokio::test]
async fn a_file_that_cannot_be_taken_in_is_set_aside_and_the_guard_goes_on() {
    let (_folder, path) = folder();
    let aside = path.with_extension("bad");
    for text in ["", "nonsense", "{\"format\":\"epmd-guard bans\",\"version\":2,\"records\":0}\n"] {
        fs::write(&path, text).unwrap();
        let (context, _) = a_context(Some(&path));
        recall_bans(&context).await;
        assert_eq!(fs::read_to_string(&aside).unwrap(), text);
        assert!(!path.exists() && bans(&context).is_empty());
        ban(&context, "192.0.2.7/32");
        end(&context).await;
        assert_eq!(file::read(&path).unwrap().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_once_and_tried_again() {
    let (folder, _) = folder();
    let path = folder.path().join("missing/bans");
    let (context, _) = a_context(Some(&path));
    recall_bans(&context).await;
    let mut keeper = Keeper::new(&context);
    ban(&context, "192.0.2.7/32");
    for _ in 0..2 {
        keeper.keep(&context).await;
        assert_eq!(keeper.told.as_ref(), Some(&path));
    }
    fs::create_dir(folder.path().join("missing")).unwrap();
    keeper.keep(&context).await;
    assert_eq!((file::read(&path).unwrap().unwrap().len(), &keeper.told), (1, &None));
}

#[tokio::test]
async fn a_clock_that_was_set_back_makes_no_ban_longer() {
    let (_folder, path) = folder();
    let (context, _) = a_context(Some(&path));
    let then = context.speakers.now().after(Duration::from_hours(10_000));
    let ban = Ban {
        net: "192.0.2.7/32".parse().unwrap(),
        since: then,
        until: then.after(Duration::from_mins(4)),
        times: 2,
        offence: Offence::WrongCookie,
    };
    let good = Record::Good { ip: "192.0.2.8".parse().unwrap(), at: then };
    file::write(&path, vec![Record::Ban(ban), good]).unwrap();
    recall_bans(&context).await;
    let now = context.speakers.now();
    let offenders = context.speakers.offenders();
    let found = offenders.bans(now);
    assert_eq!((found.len(), found[0].times, offenders.good()), (1, 2, 1));
    assert!(found[0].until.since(now) <= Duration::from_mins(4));
}
