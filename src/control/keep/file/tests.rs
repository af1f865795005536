use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn records() -> Vec<Record> {
    let ban = |net: &str, until, offence| Ban {
        net: net.parse().unwrap(),
        since: Moment(1_700_000_000_000),
        until: Moment(until),
        times: 3,
        offence,
    };
    vec![
        Record::Ban(ban("2001:db8::/64", 1_700_000_960_003, Offence::TooManyNames)),
        Record::Ban(ban("192.0.2.7/32", 1_700_000_960_002, Offence::WrongCookie)),
        Record::Ban(ban("2001:db8::1/128", 1_700_000_960_001, Offence::Malformed)),
        Record::Good { ip: "192.0.2.8".parse().unwrap(), at: Moment(1_700_000_000_002) },
        Record::Good { ip: "2001:db8::8".parse().unwrap(), at: Moment(1_700_000_000_001) },
    ]
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    (folder, path)
}

fn names(folder: &TempDir) -> Vec<String> {
    let all = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_and_only_the_owner_can() {
    let (folder, path) = folder();
    assert!(read(&path).unwrap().is_none());
    // Of a guard that ended while it wrote.
    fs::write(folder.path().join("bans.new"), "half").unwrap();
    for records in [records(), Vec::new(), records()] {
        write(&path, records.clone()).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), records);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(&folder), ["bans"]);
    }
}

#[test]
fn the_form_of_the_file_is_as_it_always_was() {
    let text = "{\"format\":\"epmd-guard bans\",\"version\":1,\"records\":2}\n\
                {\"ban\":{\"net\":\"192.0.2.7/32\",\"since\":1700000000000,\"until\":1700000960002,\"times\":3,\
                \"offence\":\"wrong_cookie\"}}\n\
                {\"good\":{\"ip\":\"192.0.2.8\",\"at\":1700000000002}}\n";
    let some: Vec<Record> = records().into_iter().skip(1).step_by(2).collect();
    assert_eq!(String::from_utf8(render(some.clone(), LARGEST)).unwrap(), text);
    assert_eq!(parse(text.as_bytes()).unwrap(), some);
}

#[test]
fn a_file_that_ends_early_is_not_taken_in() {
    let text = render(records(), LARGEST);
    for end in 0..text.len() {
        assert!(parse(&text[..end]).is_err(), "{end} bytes of {}", text.len());
    }
    assert!(parse(&text).is_ok());
}

#[test]
fn a_file_that_was_changed_is_not_taken_in_and_says_where() {
    let text = String::from_utf8(render(records(), LARGEST)).unwrap();
    let fault = |from: &str, to: &str| {
        assert!(text.contains(from));
        parse(text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string()
    };
    assert_eq!(fault("192.0.2.7/32", "192.0.2.7/33"), "line 3 is no record");
    assert_eq!(fault("wrong_cookie", "wrong"), "line 3 is no record");
    assert_eq!(fault("\"times\":3", "\"times\":-3"), "line 2 is no record");
    assert_eq!(fault("\"times\":3", "\"times\":3,\"x\":1"), "line 2 is no record");
    assert_eq!(fault("\"good\"", "\"bad\""), "line 5 is no record");
    assert_eq!(fault("\"records\":5", "\"records\":4"), Unreadable::Incomplete.to_string());
    assert_eq!(fault("epmd-guard bans", "other"), Unreadable::Foreign.to_string());
    assert_eq!(fault("\"version\":1", "\"version\":2"), "it is of version 2, and this guard knows version 1");
    assert!(parse(&[0xff; 100]).is_err());
    assert!(parse(format!("{text}\n").as_bytes()).is_err());
}

#[test]
fn what_does_not_fit_is_left_out_and_the_rest_can_be_read() {
    let all = records();
    let whole = render(all.clone(), LARGEST).len();
    let mut before = 0;
    for most in 0..whole + 200 {
        let text = render(all.clone(), most.max(128));
        assert!(text.len() <= most.max(128), "{most}");
        let kept = parse(&text).unwrap();
        assert_eq!(kept, all[..kept.len()], "the most important first");
        assert!(kept.len() >= before);
        before = kept.len();
    }
    assert_eq!(before, all.len());
}

#[test]
fn a_link_is_followed_neither_when_it_is_read_nor_when_it_is_replaced() {
    let (folder, path) = folder();
    let other = folder.path().join("other");
    write(&other, records()).unwrap();
    let text = fs::read(&other).unwrap();
    symlink(&other, &path).unwrap();
    symlink(&other, folder.path().join("bans.new")).unwrap();
    assert!(matches!(read(&path), Err(Unreadable::Link)));
    write(&path, Vec::new()).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(&other).unwrap(), text);
    assert_eq!(read(&path).unwrap().unwrap(), []);
}

#[test]
fn what_is_no_file_or_too_large_is_not_read() {
    let (folder, path) = folder();
    assert!(matches!(read(folder.path()), Err(Unreadable::NoFile)));
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    assert!(matches!(read(&path), Err(Unreadable::NoFile)), "nobody writes to the pipe");
    fs::remove_file(&path).unwrap();
    // It has no blocks.
    File::create(&path).unwrap().set_len(u64::try_from(LARGEST).unwrap() + 1).unwrap();
    assert!(matches!(read(&path), Err(Unreadable::TooLarge)));
}

#[test]
fn a_file_that_cannot_be_written_says_why_and_leaves_nothing() {
    let (folder, path) = folder();
    let missing = folder.path().join("missing/bans");
    let fault = write(&missing, records()).unwrap_err();
    assert!(matches!(fault, Unwritable::Make { .. }));
    assert!(fault.help().contains("make the directory"), "{}", fault.help());
    // A directory that not even root can make a file in.
    let fault = write(Path::new("/sys/bans"), records()).unwrap_err();
    assert!(matches!(fault, Unwritable::Make { .. }));
    assert!(fault.help().contains("StateDirectory="), "{}", fault.help());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("something"), "").unwrap();
    assert!(matches!(write(&path, records()), Err(Unwritable::Replace { .. })));
    assert_eq!(names(&folder), ["bans"]);
}

#[test]
fn a_file_is_set_aside_in_the_place_of_an_earlier_one() {
    let (folder, path) = folder();
    for text in ["first", "second"] {
        fs::write(&path, text).unwrap();
        let aside = set_aside(&path).unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), text);
    }
    assert_eq!(names(&folder), ["bans.bad"]);
    assert!(set_aside(&path).is_err());
}
