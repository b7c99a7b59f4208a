use proptest::prelude::*;

use super::*;

fn needs(sinks: u32, recent: u32, step: u32) -> Needs {
    Needs { sinks, recent, step, ..Needs::PLAIN }
}

#[test]
fn the_surplus_of_a_clamped_strip_goes_to_the_others_by_weight() {
    // least 3, longest 13: 3 strips, mean 10, so 30 - 9 = 21 above the least. Weights 4 2 1 give 12 6 3; the first is
    // clamped at 13 - 3 = 10, and 11 go 2 : 1 to the others: 7.33 and 3.67, rounded down.
    let needs = needs(1, 1, 1);
    let ask =
        Ask { needs: &needs, claims: &[Claim::Share; 3], weights: &[4.0, 2.0, 1.0], floor: 0.0, longest: 13 };
    assert_eq!(caps(&ask, Room::Slots(10)).unwrap(), [13, 10, 6]);
    assert_eq!(caps(&ask, Room::Bytes { bytes: 3099, slot: 100 }).unwrap(), [13, 10, 6]);
    assert_eq!(caps(&ask, Room::Slots(99)).unwrap(), [13, 13, 13]);
    let error = caps(&ask, Room::Bytes { bytes: 899, slot: 100 }).unwrap_err().to_string();
    assert!(error.contains("at least 3 slots in each of 3 strips: 900 asked, 899 available"), "{error}");
}

#[test]
fn whole_strips_come_first() {
    // 20 slots in all; the second strip takes 12, the others share 8.
    let needs = needs(0, 1, 1);
    let claims = [Claim::Share, Claim::Whole];
    let ask = Ask { needs: &needs, claims: &claims, weights: &[1.0, 1.0], floor: 0.0, longest: 12 };
    assert_eq!(caps(&ask, Room::Slots(10)).unwrap(), [8, 12]);
    let error = caps(&ask, Room::Slots(5)).unwrap_err().to_string();
    assert!(error.contains("strips that keep all of 12 tokens: 12 asked, 10 available"), "{error}");
}

#[test]
fn a_floor_leaves_room_for_a_step() {
    // A strip that keeps 0.75 of its cap and gives 3 needs 12.
    let needs = needs(0, 1, 3);
    let ask = Ask { needs: &needs, claims: &[Claim::Share], weights: &[1.0], floor: 0.75, longest: 100 };
    assert_eq!(caps(&ask, Room::Slots(12)).unwrap(), [12]);
    assert!(caps(&ask, Room::Slots(11)).is_err());
    assert!(caps(&Ask { floor: 1.0, ..ask }, Room::Slots(50)).is_err());
}

#[test]
fn the_published_mode_holds_the_prompt_and_is_refused_below_it() {
    let needs = Needs { keep: Some(20), evicts_in_decode: false, ..needs(0, 4, 1) };
    let claims = [Claim::Share; 2];
    let ask = Ask { needs: &needs, claims: &claims, weights: &[1.0, 1.0], floor: 0.0, longest: 150 };
    // The peak is the prompt, 100, or 20 kept and 50 answered.
    let want = Dense { caps: vec![100; 2], keeps: vec![20; 2] };
    assert_eq!(dense(&ask, 20, 100, Room::Slots(100)).unwrap(), want);
    assert_eq!(dense(&ask, 20, 10, Room::Slots(150)).unwrap().caps, [150; 2]);
    let error = dense(&ask, 20, 100, Room::Slots(99)).unwrap_err().to_string();
    assert!(error.contains("prompt of 100 tokens") && error.contains("200 asked, 198 available"), "{error}");
    let evicting = Needs { evicts_in_decode: true, ..needs };
    let ask = Ask { needs: &evicting, ..ask };
    assert_eq!(dense(&ask, 20, 10, Room::Slots(20)).unwrap().caps, [20; 2]);
}

#[test]
fn a_weight_must_be_positive_and_there_is_one_per_strip() {
    let needs = needs(0, 1, 1);
    let ask = Ask { needs: &needs, claims: &[Claim::Share; 2], weights: &[1.0], floor: 0.0, longest: 9 };
    assert!(matches!(caps(&ask, Room::Slots(5)), Err(Error::Shape { .. })));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(caps(&Ask { weights: &[1.0, bad], ..ask }, Room::Slots(5)), Err(Error::Invalid(_))));
    }
    assert_eq!(caps(&Ask { claims: &[], weights: &[], ..ask }, Room::Slots(5)).unwrap(), [0; 0]);
}

prop_compose! {
    fn strips()(list in proptest::collection::vec((prop_oneof![9 => Just(Claim::Share), 1 => Just(Claim::Whole)], 0.01f32..9.0), 1..40))
        -> (Vec<Claim>, Vec<f32>) { list.into_iter().unzip() }
}

proptest! {
    #[test]
    fn caps_keep_the_budget_and_use_it(
        (claims, weights) in strips(), sinks in 0u32..5, recent in 1u32..9, step in 1u32..9, floor in 0f32..0.9,
        longest in 0u32..500, bytes in 0u64..500_000, slot in 1u64..300,
    ) {
        let needs = needs(sinks, recent, step);
        let ask = Ask { needs: &needs, claims: &claims, weights: &weights, floor, longest };
        let room = Room::Bytes { bytes, slot };
        let Ok(got) = caps(&ask, room) else {
            // Refused only if the least that everybody needs exceeds the bytes.
            let least = u64::from(sinks + recent + step).max((f64::from(step) / (1.0 - f64::from(floor))).ceil() as u64);
            let each = |claim: &Claim| if *claim == Claim::Whole { longest.into() } else { least.min(longest.into()) };
            prop_assert!(claims.iter().map(each).sum::<u64>() * slot > bytes);
            return Ok(());
        };
        prop_assert_eq!(&got, &caps(&ask, room).unwrap());
        let used: u64 = got.iter().map(|&cap| u64::from(cap) * slot).sum();
        prop_assert!(used <= bytes);
        let sharing: Vec<usize> = (0..got.len()).filter(|&i| claims[i] == Claim::Share).collect();
        for i in 0..got.len() {
            prop_assert!(got[i] <= longest);
            prop_assert!(claims[i] == Claim::Share || got[i] == longest);
            prop_assert!(got[i] == longest || select::check_room(&needs, got[i]).is_ok());
            prop_assert!(got[i] == longest || select::floor_slots(got[i], floor) + step <= got[i]);
        }
        for (&i, &j) in sharing.iter().zip(sharing.iter().skip(1)) {
            prop_assert!(weights[i] < weights[j] || got[i] >= got[j], "more weight, no fewer slots");
        }
        // Less than a slot per strip is left over, unless everybody is served.
        let spare = bytes / slot - used / slot;
        prop_assert!(spare < sharing.len().max(1) as u64 || got.iter().all(|&cap| cap == longest));
    }

    #[test]
    fn equal_weights_give_the_mean_itself(strips in 1usize..80, mean in 3u32..5000, weight in 0.001f32..1000.0) {
        let needs = needs(1, 1, 1);
        let (claims, weights) = (vec![Claim::Share; strips], vec![weight; strips]);
        let ask = Ask { needs: &needs, claims: &claims, weights: &weights, floor: 0.0, longest: u32::MAX };
        prop_assert_eq!(caps(&ask, Room::Slots(mean)).unwrap(), vec![mean; strips]);
    }

    #[test]
    fn hostile_numbers_do_not_overflow(sizes in any::<[u32; 3]>(), longest: u32, bytes: u64, slot: u64, mean: u32, floor: f32, weights in any::<[f32; 3]>()) {
        let needs = needs(sizes[0], sizes[1], sizes[2]);
        let claims = [Claim::Share, Claim::Whole, Claim::Share];
        let ask = Ask { needs: &needs, claims: &claims, weights: &weights, floor, longest };
        for room in [Room::Bytes { bytes, slot }, Room::Slots(mean)] {
            let _ = caps(&ask, room);
            let _ = dense(&ask, mean, sizes[0], room);
        }
    }
}
