;; The two loops in which training spends its time, four numbers at a time (WebAssembly SIMD).
;; nn.js holds the same two as plain JavaScript: read those first, they say what is computed.
;; nn.wasm is this file, assembled:
;;   python -c "import wasmtime as w, pathlib as p; s = p.Path('explorer/src/nn.wat'); s.with_suffix('.wasm').write_bytes(w.wat2wasm(s.read_text()))"
(module
  (memory (export "memory") 128) ;; 128 pages of 64 KiB

  ;; C = A B, with C (m, n) and B (k, n) stored row by row, and A's element (i, p) at
  ;; a + i * row + p * col. m is a multiple of 4 and n of 8. Addresses and strides in bytes.
  ;; A block of 4 x 8 sums stays in eight registers while p runs; then it is written.
  (func (export "matmul")
    (param $c i32) (param $a i32) (param $b i32) (param $m i32) (param $n i32) (param $k i32)
    (param $row i32) (param $col i32)
    (local $i i32) (local $j i32) (local $p i32) (local $width i32)
    (local $pb i32) (local $pc i32) (local $p0 i32) (local $p1 i32) (local $p2 i32) (local $p3 i32)
    (local $x v128) (local $y v128) (local $s v128)
    (local $00 v128) (local $01 v128) (local $10 v128) (local $11 v128)
    (local $20 v128) (local $21 v128) (local $30 v128) (local $31 v128)
    (local.set $width (i32.shl (local.get $n) (i32.const 2))) ;; bytes from one row to the next
    (local.set $j (i32.const 0))
    (loop $columns
      (local.set $i (i32.const 0))
      (loop $rows
        (local.set $p0 (i32.add (local.get $a) (i32.mul (local.get $i) (local.get $row))))
        (local.set $p1 (i32.add (local.get $p0) (local.get $row)))
        (local.set $p2 (i32.add (local.get $p1) (local.get $row)))
        (local.set $p3 (i32.add (local.get $p2) (local.get $row)))
        (local.set $pb (i32.add (local.get $b) (local.get $j)))
        (local.set $00 (v128.const f32x4 0 0 0 0))
        (local.set $01 (local.get $00))
        (local.set $10 (local.get $00))
        (local.set $11 (local.get $00))
        (local.set $20 (local.get $00))
        (local.set $21 (local.get $00))
        (local.set $30 (local.get $00))
        (local.set $31 (local.get $00))
        (local.set $p (local.get $k))
        (loop $inner
          (local.set $x (v128.load (local.get $pb)))
          (local.set $y (v128.load offset=16 (local.get $pb)))
          (local.set $s (v128.load32_splat (local.get $p0)))
          (local.set $00 (f32x4.add (local.get $00) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $01 (f32x4.add (local.get $01) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $s (v128.load32_splat (local.get $p1)))
          (local.set $10 (f32x4.add (local.get $10) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $11 (f32x4.add (local.get $11) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $s (v128.load32_splat (local.get $p2)))
          (local.set $20 (f32x4.add (local.get $20) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $21 (f32x4.add (local.get $21) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $s (v128.load32_splat (local.get $p3)))
          (local.set $30 (f32x4.add (local.get $30) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $31 (f32x4.add (local.get $31) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $pb (i32.add (local.get $pb) (local.get $width)))
          (local.set $p0 (i32.add (local.get $p0) (local.get $col)))
          (local.set $p1 (i32.add (local.get $p1) (local.get $col)))
          (local.set $p2 (i32.add (local.get $p2) (local.get $col)))
          (local.set $p3 (i32.add (local.get $p3) (local.get $col)))
          (br_if $inner (local.tee $p (i32.sub (local.get $p) (i32.const 1)))))
        (local.set $pc (i32.add (i32.add (local.get $c) (local.get $j))
          (i32.mul (local.get $i) (local.get $width))))
        (v128.store (local.get $pc) (local.get $00))
        (v128.store offset=16 (local.get $pc) (local.get $01))
        (local.set $pc (i32.add (local.get $pc) (local.get $width)))
        (v128.store (local.get $pc) (local.get $10))
        (v128.store offset=16 (local.get $pc) (local.get $11))
        (local.set $pc (i32.add (local.get $pc) (local.get $width)))
        (v128.store (local.get $pc) (local.get $20))
        (v128.store offset=16 (local.get $pc) (local.get $21))
        (local.set $pc (i32.add (local.get $pc) (local.get $width)))
        (v128.store (local.get $pc) (local.get $30))
        (v128.store offset=16 (local.get $pc) (local.get $31))
        (local.set $i (i32.add (local.get $i) (i32.const 4)))
        (br_if $rows (i32.lt_u (local.get $i) (local.get $m))))
      (local.set $j (i32.add (local.get $j) (i32.const 32))) ;; eight columns of four bytes
      (br_if $columns (i32.lt_u (local.get $j) (local.get $width)))))

  ;; One step of Adam for count weights at w (a multiple of 4): the gradient is at g, the two running
  ;; means are at m and v. rate holds the correction of m's start, and fix that of v's: 1 / (1 - b2^t).
  (func (export "adam")
    (param $w i32) (param $g i32) (param $m i32) (param $v i32) (param $count i32)
    (param $rate f32) (param $fix f32)
    (local $end i32) (local $grad v128) (local $mean v128) (local $square v128)
    (local $rates v128) (local $fixes v128)
    (local.set $rates (f32x4.splat (local.get $rate)))
    (local.set $fixes (f32x4.splat (local.get $fix)))
    (local.set $end (i32.add (local.get $w) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $grad (v128.load (local.get $g)))
      (local.set $mean (f32x4.add
        (f32x4.mul (v128.const f32x4 0.9 0.9 0.9 0.9) (v128.load (local.get $m)))
        (f32x4.mul (v128.const f32x4 0.1 0.1 0.1 0.1) (local.get $grad))))
      (local.set $square (f32x4.add
        (f32x4.mul (v128.const f32x4 0.999 0.999 0.999 0.999) (v128.load (local.get $v)))
        (f32x4.mul (v128.const f32x4 0.001 0.001 0.001 0.001)
          (f32x4.mul (local.get $grad) (local.get $grad)))))
      (v128.store (local.get $m) (local.get $mean))
      (v128.store (local.get $v) (local.get $square))
      (v128.store (local.get $w) (f32x4.sub (v128.load (local.get $w))
        (f32x4.div (f32x4.mul (local.get $rates) (local.get $mean))
          (f32x4.add (f32x4.sqrt (f32x4.mul (local.get $fixes) (local.get $square)))
            (v128.const f32x4 1e-8 1e-8 1e-8 1e-8)))))
      (local.set $g (i32.add (local.get $g) (i32.const 16)))
      (local.set $m (i32.add (local.get $m) (i32.const 16)))
      (local.set $v (i32.add (local.get $v) (i32.const 16)))
      (br_if $next (i32.lt_u (local.tee $w (i32.add (local.get $w) (i32.const 16))) (local.get $end)))))
)
