use std::net::SocketAddr;

use hearth_wire::Uri;

use super::*;

fn places(change: impl FnOnce(&mut FrontConfig)) -> Arc<Places> {
    let uri = Uri::parse("PYRO:Pyro.NameServer@h:1", 9090).unwrap();
    let mut config = FrontConfig::new(uri, "h:1");
    change(&mut config);
    Arc::new(Places::new(&config))
}

fn peer(address: &str) -> Peer {
    Peer::Tcp(SocketAddr::new(address.parse().unwrap(), 1))
}

/// A place and the task that has it.
fn sit(places: &Arc<Places>, peer: Peer) -> (Place, tokio::task::JoinHandle<()>) {
    let (place, gone) = places.take(peer).unwrap();
    assert!(gone.is_none(), "there was room");
    let task = tokio::spawn(std::future::pending());
    place.key().set_task(task.abort_handle());
    (place, task)
}

#[tokio::test]
async fn an_address_has_a_share_and_this_machine_all() {
    let places = places(|config| config.connection_count_max = 400);
    let far: Vec<Place> = (0..100)
        .map(|_| places.take(peer("192.0.2.1")).unwrap().0)
        .collect();
    let text = places.take(peer("192.0.2.1")).unwrap_err().to_string();
    assert_eq!(
        text,
        "no free workers: all 100 connections of 192.0.2.1 are taken (--max-connections-per-address \
         raises the limit)"
    );
    assert!(places.take(peer("192.0.2.2")).is_ok());
    // One machine has all addresses of its IPv6 network, and IPv4 may come as IPv6.
    assert!(places.take(peer("::ffff:192.0.2.1")).is_err());
    let six: Vec<Place> = (0..100)
        .map(|index| {
            places
                .take(peer(&format!("2001:db8::{index:x}")))
                .unwrap()
                .0
        })
        .collect();
    assert!(places.take(peer("2001:db8::ffff")).is_err());
    assert!(places.take(peer("2001:db8:0:1::1")).is_ok());
    let near: Vec<Place> = (0..200)
        .map(|_| places.take(peer("127.0.0.1")).unwrap().0)
        .collect();
    assert_eq!(places.taken_count(), 400);
    drop((far, six, near));
    assert_eq!(places.taken_count(), 0);
    assert!(places.lock().counts.is_empty());
}

#[tokio::test]
async fn a_share_that_is_given_holds_for_this_machine_as_well() {
    let places = places(|config| config.connection_count_per_address_max = Some(2));
    let _held: Vec<Place> = (0..2)
        .map(|_| places.take(peer("127.0.0.1")).unwrap().0)
        .collect();
    assert!(places.take(peer("127.0.0.1")).is_err());
    for _ in 0..3 {
        places.take(Peer::Unix).unwrap();
        places.take(peer("127.0.0.2")).unwrap();
    }
}

#[tokio::test]
async fn some_places_are_kept_for_this_machine() {
    let places = places(|config| config.connection_count_max = 160);
    let guests: Vec<Place> = (0..150)
        .map(|index| places.take(peer(&format!("192.0.2.{index}"))).unwrap().0)
        .collect();
    for place in &guests {
        assert!(place.begin());
    }
    let text = places.take(peer("198.51.100.1")).unwrap_err().to_string();
    assert!(
        text.contains("all 150 connections for other machines"),
        "{text}"
    );
    let _near: Vec<Place> = (0..10)
        .map(|_| places.take(Peer::Unix).unwrap().0)
        .collect();
    for place in &_near {
        assert!(place.begin());
    }
    let text = places.take(Peer::Unix).unwrap_err().to_string();
    assert_eq!(
        text,
        "no free workers: all 160 connections are taken (--max-connections raises the limit)"
    );
}

#[tokio::test]
async fn the_longest_idle_gives_way() {
    let places = places(|config| config.connection_count_max = 3);
    let (first, first_task) = sit(&places, peer("192.0.2.1"));
    let (second, second_task) = sit(&places, peer("192.0.2.2"));
    let (third, third_task) = sit(&places, peer("127.0.0.1"));
    // The first one was heard since, and the second one has a request in progress.
    assert!(first.begin());
    first.rest();
    assert!(second.begin());

    let (fourth, gone) = places.take(peer("192.0.2.4")).unwrap();
    assert_eq!(gone.unwrap().to_string(), "127.0.0.1:1");
    assert!(third_task.await.unwrap_err().is_cancelled());
    assert!(!third.begin(), "it is over");
    // What is given back late takes nobody else's place.
    drop(third);
    assert_eq!(places.taken_count(), 3);

    let (fifth, gone) = places.take(peer("192.0.2.5")).unwrap();
    assert_eq!(gone.unwrap().to_string(), "192.0.2.1:1");
    assert!(first_task.await.unwrap_err().is_cancelled());
    // The others are busy, or not yet known to their tasks.
    assert!(places.take(peer("192.0.2.6")).is_err());
    second.rest();
    let (_sixth, gone) = places.take(peer("192.0.2.6")).unwrap();
    assert_eq!(gone.unwrap().to_string(), "192.0.2.2:1");
    assert!(second_task.await.unwrap_err().is_cancelled());
    drop((first, second, fourth, fifth));
    assert_eq!(places.taken_count(), 1);
}

#[tokio::test]
async fn guests_give_way_to_guests() {
    let places = places(|config| config.connection_count_max = 32);
    let near = sit(&places, Peer::Unix);
    let guests: Vec<_> = (0..30)
        .map(|index| sit(&places, peer(&format!("192.0.2.{index}"))))
        .collect();
    for expected in 0..3 {
        let (place, gone) = places.take(peer("198.51.100.1")).unwrap();
        assert_eq!(gone.unwrap().to_string(), format!("192.0.2.{expected}:1"));
        assert!(place.begin());
        // A busy one that never ends, for this test.
        std::mem::forget(place);
    }
    assert!(
        near.0.begin(),
        "it did not have to go, although it was idle for longest"
    );
    drop(guests);
}
