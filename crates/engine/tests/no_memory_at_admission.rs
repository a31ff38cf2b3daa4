//! A model that fits no device is refused with numbers, before anything runs.

mod common;

use std::sync::{Arc, mpsc::channel};

use common::{
    Setup, config,
    device::scripted,
    model::{classifier, encoder, pixels, tokens},
};
use hyperion_engine::{BlockCall, InferError, Pushback, Unready};
use hyperion_model::Model;
use hyperion_ops::Backend;
use hyperion_verify::Request;

/// Bytes that the engine plans for a model.
fn planned(model: &Arc<Model>) -> u64 {
    let setup = Setup::new(config(), vec![model.clone()], vec![Box::new(scripted(u64::MAX).0)]);
    setup.engine.models()[0].memory_bytes
}

#[test]
fn a_model_that_fits_no_device_is_refused_with_numbers_and_the_others_are_served() {
    let (small, large) = (classifier(1), encoder(1));
    let (needs_small, needs_large) = (planned(&small), planned(&large));
    assert!(needs_small < needs_large);
    // The second device is the roomier one, and holds the small model before the large one is asked for.
    let room = [needs_small, needs_large + needs_small - 1];
    let devices = room.map(|bytes| Box::new(scripted(bytes).0) as Box<dyn Backend>);
    let setup = Setup::new(config(), vec![small.clone(), large.clone()], devices.into());
    let [served, refused] = &setup.engine.models()[..] else { panic!("two models") };
    assert_eq!(served.ready, Ok(()));
    let largest_bytes = needs_large - 1;
    assert_eq!(refused.ready, Err(Unready::NoMemory { needed_bytes: needs_large, largest_bytes }));
    let want = Pushback::NoMemory { needed_bytes: needs_large, largest_bytes };
    let job = setup.engine.complete(large.id(), Request::default(), tokens(1, 3).into()).unwrap();
    assert_eq!(setup.try_submit(job).unwrap_err(), want);
    assert_eq!(
        setup.engine.infer_now(large.id(), &tokens(1, 3)).unwrap_err(),
        InferError::Pushback(want.clone())
    );
    let (_ticket, outcome) = setup.submit(setup.job(&pixels(1, 1)));
    outcome.recv().unwrap().unwrap();
    let (tell, told) = channel();
    let calls = vec![
        BlockCall::plain(large.id(), tokens(1, 3)),
        BlockCall::plain(small.id(), pixels(1, 1)),
    ];
    setup.engine.run_batch(calls, Box::new(move |outputs| tell.send(outputs).unwrap()));
    let outputs = told.recv().unwrap();
    assert_eq!(outputs[0], Err(InferError::Pushback(want)), "a block hears it too");
    assert!(outputs[1].is_ok());
}
