//! Tests of the levels, the leader's decision, and its effect on the members.

use std::collections::BTreeSet;

use hearth_storage::{IfTaken, Tags};

use super::*;

const MB: u64 = 1 << 20;

fn space(free: u64, total: u64) -> DiskSpace {
    DiskSpace { free, total }
}

#[test]
fn a_level_is_left_later_than_it_is_entered() {
    let limits = DiskLimits::default();
    // The limit is a tenth of a small disk, and 512 MiB of a large one.
    assert_eq!(limits.low(64 * MB), 64 * MB / 10);
    assert_eq!(limits.low(1 << 40), 512 * MB);
    let total = 100_000 * MB;
    let mut level = Level::Fine;
    for (free, expected) in [
        (600, Level::Fine),
        (512, Level::Fine),
        (511, Level::Low),
        (600, Level::Low),
        (640, Level::Fine),
        (100, Level::Low),
        (8, Level::Low),
        (7, Level::Full),
        (9, Level::Full),
        (10, Level::Low),
        (0, Level::Full),
        (5000, Level::Fine),
    ] {
        level = limits.level(level, space(free * MB, total), 0);
        assert_eq!(level, expected, "{free} MB free");
    }
    // Bytes that the reserve will take back do not count as free.
    let level = limits.level(Level::Low, space(650 * MB, total), 16 * MB);
    assert_eq!(level, Level::Low);
}

fn news(level: Level) -> DiskNews {
    DiskNews {
        term: 1,
        level,
        alarm: if level == Level::Fine {
            String::new()
        } else {
            format!("disk is {level:?}")
        },
        verdict: None,
    }
}

/// Returns the decision of node 1 in a cluster of `voters` voters, for its `own` level and those of
/// the others, and the eligible voters.
fn rule(
    own: Level,
    voters: u64,
    others: &[(u64, Level)],
    patient: bool,
) -> (&'static str, Vec<u64>) {
    let voters: BTreeSet<u64> = (1..=voters).collect();
    let others = others
        .iter()
        .map(|&(id, level)| (id, news(level)))
        .collect();
    let judgement = judge(1, &news(own), &voters, &others, patient);
    let verdict = match judgement.verdict {
        Verdict::Open => "open",
        Verdict::RemovalsOnly(_) => "removals",
        Verdict::Nothing(_) => "nothing",
    };
    (verdict, judgement.heirs)
}

#[test]
fn the_leader_refuses_when_no_majority_has_room() {
    use Level::{Fine, Full, Low};
    // A single node.
    assert_eq!(rule(Fine, 1, &[], true), ("open", vec![]));
    assert_eq!(rule(Low, 1, &[], true), ("removals", vec![]));
    assert_eq!(rule(Full, 1, &[], true), ("nothing", vec![]));
    // One follower of three does not matter, whatever the level of its disk.
    assert_eq!(
        rule(Fine, 3, &[(2, Fine), (3, Low)], true),
        ("open", vec![])
    );
    assert_eq!(
        rule(Fine, 3, &[(2, Fine), (3, Full)], true),
        ("open", vec![])
    );
    // It matters if the other follower is away, because then it is needed.
    assert_eq!(rule(Fine, 3, &[(3, Low)], true), ("removals", vec![]));
    assert_eq!(rule(Fine, 3, &[(3, Full)], true), ("nothing", vec![]));
    // Members that are away are not a question of disks.
    assert_eq!(rule(Fine, 3, &[], true), ("open", vec![]));
    assert_eq!(
        rule(Fine, 3, &[(2, Low), (3, Low)], true),
        ("removals", vec![])
    );
    assert_eq!(
        rule(Fine, 3, &[(2, Full), (3, Full)], true),
        ("nothing", vec![])
    );
    // A leader without room looks for another leader, and refuses writes if that takes too long.
    let fine = [(2, Fine), (3, Fine)];
    assert_eq!(rule(Low, 3, &fine, true), ("open", vec![2, 3]));
    assert_eq!(rule(Low, 3, &fine, false), ("removals", vec![2, 3]));
    assert_eq!(rule(Full, 3, &fine, true), ("nothing", vec![2, 3]));
    assert_eq!(
        rule(Low, 3, &[(2, Fine), (3, Low)], true),
        ("removals", vec![2])
    );
    assert_eq!(
        rule(Low, 3, &[(2, Low), (3, Low)], true),
        ("removals", vec![])
    );
    // The disk of a learner does not count.
    assert_eq!(rule(Fine, 1, &[(9, Full)], true), ("open", vec![]));
}

#[test]
fn a_refusal_names_each_disk() {
    let voters = BTreeSet::from([1, 2, 3]);
    let others = BTreeMap::from([(2, news(Level::Low)), (3, news(Level::Full))]);
    let judgement = judge(1, &news(Level::Fine), &voters, &others, true);
    let reason = "disk full: node 2: disk is Low; node 3: disk is Full".to_owned();
    assert_eq!(judgement.verdict, Verdict::RemovalsOnly(reason));
}

fn register() -> Command {
    Command::Register {
        name: "a".to_owned(),
        uri: "PYRO:a@b:1".to_owned(),
        tags: Tags::new(),
        if_taken: IfTaken::Replace,
    }
}

fn remove() -> Command {
    Command::Remove {
        name: "a".to_owned(),
    }
}

fn said(term: u64, verdict: Verdict) -> DiskNews {
    DiskNews {
        verdict: Some(verdict),
        ..DiskNews {
            term,
            ..news(Level::Fine)
        }
    }
}

#[test]
fn a_follower_refuses_what_its_leader_refuses() {
    let disk = Disk::open(&StorageLocation::Memory, DiskLimits::default());
    disk.admits(&register()).unwrap();
    let refused = Verdict::RemovalsOnly("no room".to_owned());
    let answer = disk.heard(said(7, refused.clone()), 7);
    assert_eq!((answer.level, answer.verdict), (Level::Fine, None));
    assert_eq!(disk.admits(&register()), Err("no room".to_owned()));
    disk.admits(&remove()).unwrap();
    assert_eq!(disk.alarms(), ["no room"]);
    // The message of a replaced leader is ignored.
    disk.heard(said(6, Verdict::Open), 7);
    assert!(disk.admits(&register()).is_err());
    disk.heard(said(7, Verdict::Nothing("none at all".to_owned())), 7);
    assert_eq!(disk.admits(&remove()), Err("none at all".to_owned()));
    disk.heard(said(7, Verdict::Open), 7);
    disk.admits(&register()).unwrap();
    assert!(disk.alarms().is_empty());
    // The verdict of a silent leader expires.
    disk.heard(said(7, refused), 7);
    disk.follow();
    assert!(disk.admits(&register()).is_err());
    let mut shared = lock(&disk.shared);
    shared.heard.as_mut().unwrap().2 -= VERDICT_DURATION_MAX;
    drop(shared);
    disk.follow();
    disk.admits(&register()).unwrap();
}

#[test]
fn a_list_goes_through_only_as_a_whole() {
    let disk = Disk::open(&StorageLocation::Memory, DiskLimits::default());
    let numbered = |seq, command| NumberedCommand {
        session: 1,
        seq,
        acked_upto: 0,
        command,
    };
    let mixed = [numbered(1, remove()), numbered(2, register())];
    disk.admits_all(&mixed, false).unwrap();
    disk.heard(said(1, Verdict::RemovalsOnly("no room".to_owned())), 1);
    disk.admits_all(&mixed, false).unwrap_err();
    disk.admits_all(&mixed[..1], false).unwrap();
    disk.admits_all(&mixed, true).unwrap();
    disk.heard(said(1, Verdict::Nothing("no room at all".to_owned())), 1);
    disk.admits_all(&mixed[..1], false).unwrap_err();
    disk.admits_all(&mixed, true).unwrap_err();
}

/// The limits put the disk at each level, however much is free where the test runs.
#[test]
fn a_full_disk_gives_its_reserve_up_and_takes_no_entries() {
    let folder = tempfile::tempdir().unwrap();
    let total = DiskSpace::of(folder.path()).unwrap().total;
    let open = |low_len_max: u64, reserve_len_max: u64| {
        let limits = DiskLimits {
            low_len_max,
            low_percent: 4000,
            reserve_len_max,
            ..DiskLimits::default()
        };
        Disk::open(&StorageLocation::Rocks(folder.path().to_owned()), limits)
    };
    let reserve = Reserve::new(folder.path());
    let disk = open(4096, 1024);
    assert_eq!(disk.level(), Level::Fine);
    assert!(disk.alarms().is_empty());
    let can_reserve = !reserve.is_empty();
    disk.takes_entries(1).unwrap();
    disk.has_room_for(1).unwrap();
    disk.has_room_for(total).unwrap_err();

    let disk = open(u64::MAX, 1024);
    assert_eq!(disk.level(), Level::Low);
    disk.takes_entries(1).unwrap();
    assert_eq!(!reserve.is_empty(), can_reserve);

    let disk = open(u64::MAX, u64::MAX);
    assert_eq!(disk.level(), Level::Full);
    assert!(reserve.is_empty(), "the reserve should have been given up");
    let reason = disk.takes_entries(1).unwrap_err();
    let path = folder.path().display().to_string();
    assert!(reason.contains(&path), "{reason}");
    assert!(reason.contains("is full: "), "{reason}");
    assert_eq!(disk.alarms(), [reason]);
    assert!(disk.admits(&remove()).is_err());
    drop(disk);
    assert_eq!(open(4096, 1024).level(), Level::Fine);
    assert_eq!(!reserve.is_empty(), can_reserve);
}
