use aya::{EbpfLoader, programs::SchedClassifier, VerifierLogLevel};
fn main() {
    let object = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let names = ["Prepare","Walk","Place","Head","Frames","Search","Arrive","Join","Settle","Mark","Sweep","Recall","Apply","translate","create","syn","begin","confirm","account"];
    let mut sets: Vec<(String, u32)> = vec![("none".into(), 0x7ffff), ("all".into(), 0)];
    for (i, n) in names.iter().enumerate() { sets.push((n.to_string(), 0x7ffff & !(1 << i))); }
    for (n, skip) in sets {
        let dir = format!("/sys/fs/bpf/vsize-{}", std::process::id());
        std::fs::create_dir_all(&dir).unwrap();
        let mut l = EbpfLoader::new();
        l.default_map_pin_directory(&dir).override_global("SKIP", &skip, true).verifier_log_level(VerifierLogLevel::STATS);
        let mut e = l.load(&object).unwrap();
        let p: &mut SchedClassifier = e.program_mut("tn_rpc").unwrap().try_into().unwrap();
        match p.load() { Ok(()) => println!("{n}: {:?}", p.info().unwrap().verified_instruction_count()),
            Err(err) => { use std::error::Error; let s = err.source().map(|x| x.to_string()).unwrap_or_default() + &err.to_string(); let l: Vec<&str> = s.lines().collect(); println!("{n}: REFUSED {}", l[l.len().saturating_sub(6)..].join(" | ")) } }
        let _ = std::fs::remove_dir_all(&dir);
    }
}
