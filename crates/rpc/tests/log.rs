//! The log for everybody: checkpoints, proofs and entries that a client checks by itself, and tiles over HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{ask_digits, image, ledger, reason, start};
use hyperion_primitives::B256;
use hyperion_rpc::{
    client::Client,
    r#gen::v1::{self, get_inclusion_proof_request::Leaf, log_service_client::LogServiceClient},
};
use hyperion_verify::{
    SignedClaim, SignedNote,
    log::{check_consistency, check_inclusion, leaf_hash},
};
use tonic::{Code, Request};

fn hashes(path: &[Bytes]) -> Vec<B256> {
    path.iter().map(|hash| B256::from_slice(hash)).collect()
}

/// A checkpoint whose note is the log's and agrees with its copies.
fn checked(checkpoint: &v1::Checkpoint) -> (u64, B256) {
    let note: SignedNote = checkpoint.note.parse().unwrap();
    note.verify(&ledger::log_key()).unwrap();
    assert_eq!(note.checkpoint.size, checkpoint.size);
    assert_eq!(note.checkpoint.root.as_slice(), checkpoint.root);
    (checkpoint.size, note.checkpoint.root)
}

async fn checkpoint(client: &mut Client, size_min: u64) -> Result<v1::Checkpoint, tonic::Status> {
    let asked = v1::GetCheckpointRequest { size_min };
    Ok(client.log.get_checkpoint(asked).await?.into_inner().checkpoint.unwrap())
}

/// Makes `count` logged claims, two entries each; gives their digests.
async fn claims(client: &mut Client, count: u32) -> Vec<Bytes> {
    let mut digests = Vec::new();
    for pixel in 0..count {
        let mut asked = ask_digits(image(pixel));
        asked.wait_for = v1::WaitFor::Logged.into();
        let answer = client.inference.infer(asked).await.unwrap().into_inner();
        digests.push(answer.claim.unwrap().claim_digest);
    }
    digests
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_hold_for_whoever_checks_them() {
    let node = start().await;
    let mut client = node.client().await;
    let before = checkpoint(&mut client, 0).await.unwrap_err();
    assert_eq!(
        (before.code(), reason(&before).0.as_str()),
        (Code::OutOfRange, "checkpoint_unknown")
    );

    let digests = claims(&mut client, 3).await;
    let (size, root) = checked(&checkpoint(&mut client, 0).await.unwrap());
    assert_eq!(size, 6);
    let leaves = v1::GetLeavesRequest { start: 0, count: 256 };
    let entries = client.log.get_leaves(leaves).await.unwrap().into_inner().leaves;
    assert_eq!(entries.len(), 6);

    for (position, claim) in digests.iter().enumerate() {
        let index = 2 * position as u64;
        let entry = &entries[2 * position];
        assert_eq!(SignedClaim::from_entry(entry).unwrap().check(&common::DOMAIN), Ok(()));
        let leaf = leaf_hash(entry);
        for named in [
            Leaf::Index(index),
            Leaf::ClaimDigest(claim.clone()),
            Leaf::LeafHash(Bytes::copy_from_slice(leaf.as_slice())),
        ] {
            let asked = v1::GetInclusionProofRequest { leaf: Some(named.clone()), size: 0 };
            let proof = client.log.get_inclusion_proof(asked).await.unwrap().into_inner();
            assert_eq!((proof.index, proof.size), (index, size), "{named:?}");
            check_inclusion(&leaf, proof.index, proof.size, &hashes(&proof.path), &root).unwrap();
        }
    }

    let (old_size, old_root) =
        (2, hyperion_verify::log::root_of(&[leaf_hash(&entries[0]), leaf_hash(&entries[1])]));
    let asked = v1::GetConsistencyProofRequest { old_size, new_size: size };
    let proof = client.log.get_consistency_proof(asked).await.unwrap().into_inner();
    check_consistency(old_size, size, &old_root, &root, &hashes(&proof.path)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_have_is_said() {
    let node = start().await;
    let mut client = node.client().await;
    claims(&mut client, 1).await;
    let inclusion = |leaf, size| v1::GetInclusionProofRequest { leaf, size };
    for (name, asked, code) in [
        ("no leaf", inclusion(None, 0), Code::InvalidArgument),
        ("beyond the tree", inclusion(Some(Leaf::Index(2)), 2), Code::InvalidArgument),
        ("a size of the future", inclusion(Some(Leaf::Index(0)), 99), Code::OutOfRange),
        (
            "a short digest",
            inclusion(Some(Leaf::ClaimDigest(vec![1; 31].into())), 0),
            Code::InvalidArgument,
        ),
        (
            "an unknown claim",
            inclusion(Some(Leaf::ClaimDigest(vec![1; 32].into())), 0),
            Code::NotFound,
        ),
        ("an unknown leaf", inclusion(Some(Leaf::LeafHash(vec![1; 32].into())), 0), Code::NotFound),
        (
            "a long leaf hash",
            inclusion(Some(Leaf::LeafHash(vec![1; 33].into())), 0),
            Code::InvalidArgument,
        ),
    ] {
        assert_eq!(client.log.get_inclusion_proof(asked).await.unwrap_err().code(), code, "{name}");
    }
    for (name, old_size, new_size, code) in [
        ("from nothing", 0, 2, Code::InvalidArgument),
        ("backwards", 2, 1, Code::InvalidArgument),
        ("to the future", 1, 99, Code::OutOfRange),
    ] {
        let asked = v1::GetConsistencyProofRequest { old_size, new_size };
        assert_eq!(
            client.log.get_consistency_proof(asked).await.unwrap_err().code(),
            code,
            "{name}"
        );
    }
    for (name, start, count, code) in [
        ("none", 0, 0, Code::InvalidArgument),
        ("257", 0, 257, Code::InvalidArgument),
        ("beyond the end", 2, 1, Code::OutOfRange),
        ("far beyond the end", u64::MAX, 256, Code::OutOfRange),
    ] {
        let asked = v1::GetLeavesRequest { start, count };
        assert_eq!(client.log.get_leaves(asked).await.unwrap_err().code(), code, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_waited_for_until_the_deadline() {
    let node = start().await;
    node.ledger.tick();
    let mut waiting = node.client().await;
    let waits = tokio::spawn(async move { checkpoint(&mut waiting, 3).await });
    node.ledger.tick();
    node.ledger.tick();
    let (size, _) = checked(&waits.await.unwrap().unwrap());
    assert_eq!(size, 3);

    let mut never = Request::new(v1::GetCheckpointRequest { size_min: 99 });
    never.set_timeout(Duration::from_millis(50));
    let (transport, origin) = node.untimed();
    let status =
        LogServiceClient::with_origin(transport, origin).get_checkpoint(never).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::DeadlineExceeded, "deadline"),
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_every_newest_checkpoint_until_the_node_stops() {
    let node = start().await;
    node.ledger.tick();
    let mut client = node.client().await;
    let watch = client.log.watch_checkpoints(v1::WatchCheckpointsRequest {}).await;
    let mut seen = watch.unwrap().into_inner();
    for size in 1..4 {
        let checkpoint = seen.message().await.unwrap().unwrap().checkpoint.unwrap();
        assert_eq!(checked(&checkpoint).0, size);
        node.ledger.tick();
    }
    let mut brief = Request::new(v1::WatchCheckpointsRequest {});
    brief.set_timeout(Duration::from_millis(50));
    let (transport, origin) = node.untimed();
    let status =
        match LogServiceClient::with_origin(transport, origin).watch_checkpoints(brief).await {
            Err(status) => status,
            Ok(seen) => {
                let mut seen = seen.into_inner();
                loop {
                    if let Err(status) = seen.message().await {
                        break status;
                    }
                }
            }
        };
    assert_eq!(status.code(), Code::DeadlineExceeded);

    node.shutdown.stop.cancel();
    let status = loop {
        match seen.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a watcher is told why it ends"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).0.as_str()), (Code::Unavailable, "draining"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_carry_the_same_log() {
    let node = start().await;
    let mut client = node.client().await;
    claims(&mut client, 2).await;
    for _ in 0..300 {
        node.ledger.tick();
    }
    let (status, head, note) = node.http("GET", "/log/checkpoint", "").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain"), "{head}");
    let note: SignedNote = note.parse().unwrap();
    note.verify(&ledger::log_key()).unwrap();
    assert_eq!(note.checkpoint.size, 304);

    for (path, want) in [
        ("/log/tile/0/000", 200),
        ("/log/tile/0/001.p/48", 200),
        ("/log/tile/1/000.p/1", 200),
        ("/log/tile/entries/000", 200),
        ("/log/tile/entries/001.p/48", 200),
        ("/log/tile/0/001", 404),
        ("/log/tile/0/001.p/49", 404),
        ("/log/tile/entries/x999/999", 404),
        ("/log/tile/0/0", 400),
        ("/log/tile/8/000", 400),
        ("/log/tile/0/000.p/0", 400),
        ("/log/tile/0/%ff", 400),
    ] {
        let (status, head, body) = node.http("GET", path, "").await;
        assert_eq!(status, want, "{path}: {body}");
        if status == 200 {
            assert!(head.contains("immutable"), "{path}: {head}");
        }
    }
}
