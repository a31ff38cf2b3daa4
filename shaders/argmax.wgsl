// The lowest index among the largest elements of each row. Definition: crates/ops/src/argmax.rs.

struct Params {
    rows: u32,
    width: u32,
    in_at: u32,
    in_stride: u32,
    out_at: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<i32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> best: array<i32, GROUP>;
var<workgroup> place: array<u32, GROUP>;

@compute @workgroup_size(GROUP)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = p.in_at + group.y * p.in_stride;
    var largest = x[row];
    var at = 0u;
    for (var i = lane; i < p.width; i += GROUP) {
        let v = x[row + i];
        if (v > largest) {
            largest = v;
            at = i;
        }
    }
    best[lane] = largest;
    place[lane] = at;
    workgroupBarrier();
    if (lane == 0u) {
        for (var i = 1u; i < GROUP; i++) {
            if (best[i] > largest || (best[i] == largest && place[i] < at)) {
                largest = best[i];
                at = place[i];
            }
        }
        out[p.out_at + group.y * p.out_stride] = at;
    }
}
