//! Who gets into a group, and what is left of one that does not form?

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use glint_kernels::collective::{CollectiveError, Group, Host, Transport, host, join};

use crate::support::{LONG, SHORT, Way, transport};

/// A rank of another epoch, size, group or name must not get in, and must not disturb those who may.
#[test]
fn whoever_does_not_belong_is_refused_with_a_reason_and_the_group_still_forms() {
    for way in [Way::SharedMemory, Way::Tcp] {
        let group = Group::new(2, 7, LONG);
        let host = host(&transport(way), &group).unwrap();
        let address = host.address().to_owned();
        let (place, token) = address.rsplit_once(':').unwrap();
        let other_token = if token.starts_with('0') { "1" } else { "0" }.to_owned() + &token[1..];
        thread::scope(|scope| {
            let accepting = scope.spawn(|| host.accept().unwrap());
            if way == Way::Tcp {
                let socket = place.strip_prefix("tcp:").unwrap();
                TcpStream::connect(socket).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                TcpStream::connect(socket).unwrap().write_all(&[0xff; 4096]).unwrap();
                scope.spawn(move || drop(TcpStream::connect(socket)));
            }
            for (address, rank, group, reason) in [
                (&address, 1, Group::new(2, 6, LONG), "epoch 7"),
                (&address, 1, Group::new(3, 7, LONG), "a"),
                (&format!("{place}:{other_token}"), 1, group.clone(), "token"),
            ] {
                let Err(error) = join(address, rank, &group) else { panic!("{way:?}: {reason}") };
                let CollectiveError::Refused { why, .. } = error else { panic!("{error}") };
                assert!(why.contains(reason), "{way:?}: {why}");
            }
            let mut first = join(&address, 1, &group).unwrap();
            let mut host = accepting.join().unwrap();
            scope.spawn(move || host.barrier().unwrap());
            first.barrier().unwrap();
            let Err(error) = join(&address, 1, &group) else { panic!("the group is closed") };
            assert!(matches!(error, CollectiveError::Refused { .. }), "{way:?}: {error}");
        });
    }
}

#[test]
fn a_rank_that_does_not_join_is_named_by_rank_0_and_to_the_others() {
    for way in [Way::SharedMemory, Way::Tcp] {
        // Rank 1 must have come by the end of this, and on a busy machine it may need longer.
        let mut timeout = SHORT;
        while !is_only_rank_2_missed(way, timeout) {
            assert!(timeout < LONG, "{way:?}: rank 0 does not see rank 1");
            timeout *= 2;
        }
    }
}

/// Waits for ranks 1 and 2, of which only 1 comes. Returns false if even that one came too late.
fn is_only_rank_2_missed(way: Way, timeout: Duration) -> bool {
    let host: Host = host(&transport(way), &Group::new(3, 7, timeout)).unwrap();
    let address = host.address().to_owned();
    thread::scope(|scope| {
        let joining = scope.spawn(|| join(&address, 1, &Group::new(3, 7, LONG)).err().unwrap());
        let missed = host.accept().err().unwrap();
        let told = joining.join().unwrap();
        match missed {
            CollectiveError::Timeout { rank: 1, .. } => false,
            CollectiveError::Timeout { rank: 2, .. } => {
                assert!(
                    matches!(told, CollectiveError::PeerLost { rank: 2, .. }),
                    "{way:?}: {told}"
                );
                true
            }
            error => panic!("{way:?}: {error}"),
        }
    })
}

#[test]
fn an_abort_also_ends_the_forming() {
    for way in [Way::SharedMemory, Way::Tcp] {
        let group = Group::new(2, 7, LONG);
        let host = host(&transport(way), &group).unwrap();
        let started = Instant::now();
        thread::scope(|scope| {
            let accepting = scope.spawn(|| host.accept().err().unwrap());
            group.abort.abort();
            assert_eq!(accepting.join().unwrap(), CollectiveError::Aborted);
        });
        assert!(started.elapsed() < LONG / 4);
    }
}

#[test]
fn no_segment_keeps_its_name() {
    let own = format!("glint-{}-", std::process::id());
    let group = Group::new(2, 7, LONG);
    let waiting = host(&Transport::SharedMemory, &group).unwrap();
    let name = waiting.address().split(':').nth(1).unwrap().trim_start_matches('/').to_owned();
    assert!(name.starts_with(&own));
    let segment = std::path::Path::new("/dev/shm").join(&name);
    assert!(segment.exists());
    let address = waiting.address().to_owned();
    thread::scope(|scope| {
        let joined = scope.spawn(|| join(&address, 1, &group).unwrap());
        let _rank_0 = waiting.accept().unwrap();
        assert!(!segment.exists(), "unlinked when all are there");
        joined.join().unwrap();
    });
    let forgotten = host(&Transport::SharedMemory, &group).unwrap();
    let name = forgotten.address().split(':').nth(1).unwrap().to_owned();
    drop(forgotten);
    assert!(!std::path::Path::new("/dev/shm").join(name.trim_start_matches('/')).exists());
}
