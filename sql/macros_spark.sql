-- Macros the queries rely on, in Spark's dialect: the same names as in macros_duckdb.sql, and what DuckDB has built in and
-- Spark has not, or means otherwise. store/spark/transpile.py writes them out in place (Spark's own functions take no
-- aggregate, and no variable of a lambda). Names that end in _ are theirs alone: nothing in a query is called so.

-- isnan, isfinite: NULL stays NULL. In Spark NaN is larger than infinity.
create macro isnan(x) as case when x is not null then isnan(x) end;
create macro isfinite(x) as abs(x) < double('infinity');

-- ln: Spark's own is NULL at 0 and under.
create macro ln(x) as
  case when x > 0 then ln(x) when x = 0 then double('-infinity') when x < 0 then double('nan') end;

-- divided: what / means in DuckDB: infinite or NaN where the divisor is 0, for which Spark raises an error.
create macro divided(a, b) as if(b = 0, a * double('infinity'), a / b);

-- element: list[i], counted from 1 or, below 0, from the end; NULL outside the list.
create macro element(list, i) as try_element_at(list, nullif(int(i), 0));

-- from_front: where a bound of a slice lies, counted from 1.
create macro from_front(list, i) as if(i < 0, size(list) + i + 1, i);

-- sliced: list[low:high], both included; empty where nothing lies between them.
create macro sliced(list, low, high) as
  slice(list, int(greatest(from_front(list, low), 1)),
        int(greatest(least(from_front(list, high), size(list)) - greatest(from_front(list, low), 1) + 1, 0)));

-- known: a list of double without its NULLs.
create macro known(list) as filter(cast(list as array<double>), v_ -> v_ is not null);

-- list_sum, list_avg, list_stddev_pop: NULL elements are left out; NULL of nothing.
create macro list_sum(list) as
  aggregate(known(list), cast(null as double), (sum_, v_) -> coalesce(sum_ + v_, v_));
create macro list_avg(list) as
  aggregate(known(list), struct(double(0) as total_, 0 as n_), (sum_, v_) -> struct(sum_.total_ + v_ as total_, sum_.n_ + 1 as n_),
            sum_ -> sum_.total_ / nullif(sum_.n_, 0));
create macro list_stddev_pop(list) as
  element(transform(array(struct(list_avg(list) as mean_, known(list) as of_)),
                    all_ -> sqrt(list_avg(transform(all_.of_, d_ -> (d_ - all_.mean_) * (d_ - all_.mean_))))),
          1);

-- half_float: a number of half precision from its two bytes, the lower one first: 1 bit of sign, 5 of exponent, 10 beyond.
create macro half_float(bytes) as
  float(element(transform(array(int(conv(concat(substr(hex(bytes), 3, 2), substr(hex(bytes), 1, 2)), 16, 10))),
                          bits_ -> if(bits_ >= 32768, -1, 1)
                                   * case when (bits_ & 31744) = 31744 then if((bits_ & 1023) = 0, double('infinity'), double('nan'))
                                          when (bits_ & 31744) = 0 then (bits_ & 1023) * power(double(2), -24)
                                          else (1024 + (bits_ & 1023)) * power(double(2), shiftright(bits_ & 31744, 10) - 25) end),
                1));

-- phi: log p_y - log(1 - p_y) from logits and a label counted from 0; finite where p_y rounds to 0 or 1.
create macro log_sum_exp(list) as
  element(transform(transform(array(list), z_ -> struct(z_ as of_, array_max(z_) as top_)),
                    all_ -> all_.top_ + ln(list_sum(transform(all_.of_, r_ -> exp(r_ - all_.top_))))),
          1);
create macro others(list, label) as filter(cast(list as array<double>), (z_, place_) -> place_ <> label);
create macro phi(logits, label) as element(cast(logits as array<double>), label + 1) - log_sum_exp(others(logits, label));

-- cross_entropy: -log p_y from logits and a label counted from 0.
create macro cross_entropy(logits, label) as
  log_sum_exp(cast(logits as array<double>)) - element(cast(logits as array<double>), label + 1);

-- quantile_range: difference of two quantiles of a list, linear interpolation; NULL elements are left out.
create macro between_ranks(ranked, place) as
  element(ranked, floor(place) + 1)
  + if(place > floor(place), (element(ranked, floor(place) + 2) - element(ranked, floor(place) + 1)) * (place - floor(place)), 0);
create macro quantile_range(trace, low, high) as
  element(transform(array(array_sort(known(trace))),
                    ranked_ -> between_ranks(ranked_, high * (size(ranked_) - 1)) - between_ranks(ranked_, low * (size(ranked_) - 1))),
          1);

-- lt_iqr: Q75 - Q25 of a trace.
create macro lt_iqr(trace) as quantile_range(trace, double(0.25), double(0.75));

-- slope_of: least-squares slope of ys over xs, lists of equal length without NULL; both are centred first.
create macro slope_of(xs, ys) as
  element(transform(array(struct(xs as xs_, ys as ys_, list_avg(xs) as middle_x_, list_avg(ys) as middle_y_)),
                    all_ -> list_sum(zip_with(all_.xs_, all_.ys_, (x_, y_) -> (x_ - all_.middle_x_) * (y_ - all_.middle_y_)))
                            / nullif(list_sum(transform(all_.xs_, x_ -> (x_ - all_.middle_x_) * (x_ - all_.middle_x_))), double(0))),
          1);

-- trace_slope: least-squares slope over epochs; epochs that are NULL are left out. NULL where fewer than two are there.
create macro trace_slope(trace) as
  slope_of(known(transform(cast(trace as array<double>), (v_, epoch_) -> if(v_ is null, null, double(epoch_)))), known(trace));

-- power_norm: the Lp norm of a list.
create macro power_norm(trace, p) as power(list_sum(transform(trace, v_ -> power(abs(v_), p))), double(1) / p);

-- first_at_most: the first position (from 0) whose value is at most the bound; the length where none is.
create macro first_at_most(trace, bound) as
  coalesce(nullif(array_position(transform(trace, v_ -> v_ is not null and double(v_) <= bound), true), 0) - 1, size(trace));

-- times_lost: how often a value above 0 is followed by one that is not; the length of the list where none is above 0.
-- The list has no NULL.
create macro times_lost(trace) as
  if(array_max(trace) > 0,
     size(filter(zip_with(trace, slice(trace, 2, size(trace)), (before_, after_) -> before_ > 0 and after_ <= 0), lost_ -> lost_)),
     size(trace));

-- log_normal_density: log N(x; mean, variance).
create macro log_normal_density(x, mean, variance) as
  -double(0.5) * (ln(2 * pi() * variance) + divided((x - mean) * (x - mean), variance));

-- is_drawn: whether a sample is among a share of all that is drawn by their ids, the same each time.
create macro is_drawn(sample_id, share) as
  (sample_id::bigint * 2654435761) % 4294967296 < share * 4294967296;

-- log_gamma_half: log Gamma(a + 1/2) - log Gamma(a) for a > 0, by eight steps of the recurrence and the asymptotic series.
create macro log_gamma_half(a) as
  0.5D * ln(a + 8) - 1 / (8 * (a + 8)) + 1 / (192 * power(a + 8, 3)) - 1 / (640 * power(a + 8, 5))
  + 17 / (14336 * power(a + 8, 7))
  + ln(a / (a + 0.5D) * (a + 1) / (a + 1.5D) * (a + 2) / (a + 2.5D) * (a + 3) / (a + 3.5D)
       * (a + 4) / (a + 4.5D) * (a + 5) / (a + 5.5D) * (a + 6) / (a + 6.5D) * (a + 7) / (a + 7.5D));

-- digamma, trigamma, tetragamma: the first three derivatives of log Gamma at x > 0, the same as DuckDB's.
create macro digamma(x) as
  ln(x + 8) - 0.5D / (x + 8) - 1 / (12 * power(x + 8, 2)) + 1 / (120 * power(x + 8, 4)) - 1 / (252 * power(x + 8, 6))
  + 1 / (240 * power(x + 8, 8))
  - (1 / x + 1 / (x + 1) + 1 / (x + 2) + 1 / (x + 3) + 1 / (x + 4) + 1 / (x + 5) + 1 / (x + 6) + 1 / (x + 7));
create macro trigamma(x) as
  1 / (x + 8) + 0.5D / power(x + 8, 2) + 1 / (6 * power(x + 8, 3)) - 1 / (30 * power(x + 8, 5)) + 1 / (42 * power(x + 8, 7))
  - 1 / (30 * power(x + 8, 9))
  + 1 / power(x, 2) + 1 / power(x + 1, 2) + 1 / power(x + 2, 2) + 1 / power(x + 3, 2) + 1 / power(x + 4, 2)
  + 1 / power(x + 5, 2) + 1 / power(x + 6, 2) + 1 / power(x + 7, 2);
create macro tetragamma(x) as
  -1 / power(x + 8, 2) - 1 / power(x + 8, 3) - 0.5D / power(x + 8, 4) + 1 / (6 * power(x + 8, 6)) - 1 / (6 * power(x + 8, 8))
  - 2 * (1 / power(x, 3) + 1 / power(x + 1, 3) + 1 / power(x + 2, 3) + 1 / power(x + 3, 3) + 1 / power(x + 4, 3)
         + 1 / power(x + 5, 3) + 1 / power(x + 6, 3) + 1 / power(x + 7, 3));

-- inverse_trigamma: x with trigamma(x) = value, by eight steps of Newton's method on 1 / trigamma.
create macro inverse_trigamma(value) as
  aggregate(array(1, 2, 3, 4, 5, 6, 7, 8), 0.5D + 1 / value,
            (x_, step_) -> x_ + trigamma(x_) * (1 - trigamma(x_) / value) / tetragamma(x_));

-- log_t_density: log density at x of Student's t with dof degrees of freedom about a centre; scale is squared.
create macro log_t_density(x, centre, scale, dof) as
  log_gamma_half(dof / 2) - 0.5D * ln(pi() * dof * scale)
  - (dof + 1) / 2 * ln(1 + (x - centre) * (x - centre) / (dof * scale));

-- within_floor: a variance that is never so small that a score stops being finite.
create macro within_floor(variance) as greatest(variance, 1e-12);

-- tail_polynomial: log(erfcx(x) (1 + x / 2)) as a polynomial in t = 1 / (1 + x / 2), the same as DuckDB's, lowest power
-- first; its error is below 4e-10 for every x >= 0.
create macro tail_polynomial(t) as
  aggregate(reverse(array(-1.265512123798722D, 1.0000001455554899D, 0.374988806646863D, 0.08367277051123008D,
                          -0.09131572145072275D, -0.09266238003544976D, -0.40599902768581086D, 1.3364799677044388D,
                          -3.619014715884675D, 7.549808959094475D, -9.899900556044665D, 8.020689022172084D,
                          -3.9593504694231925D, 1.1011739767919688D, -0.13305865401902456D)),
            double(0), (sum_, factor_) -> sum_ * t + factor_);

-- log_upper_tail: log Pr[Z > z] of a standard normal for z >= 0, by erfc(x) = erfcx(x) exp(-x^2) at x = z / sqrt(2).
create macro log_upper_tail(z) as
  tail_polynomial(double(1) / (1 + z / sqrt(double(8)))) - ln(2 * (1 + z / sqrt(double(8)))) - z * z / 2;

-- log_normal_tail: log Pr[Z > z] of a standard normal, accurate on both sides.
create macro log_normal_tail(z) as
  element(transform(transform(array(double(z)), at_ -> struct(at_, log_upper_tail(abs(at_)) as upper_)),
                    tail_ -> case when tail_.at_ >= 0 then tail_.upper_
                                  when tail_.at_ < -5 then -exp(tail_.upper_) * (1 + exp(tail_.upper_) / 2)
                                  else ln(1 - exp(tail_.upper_)) end),
          1);

-- as_normal: z with the tail of a standard normal that t has, as DuckDB's.
create macro as_normal(square, dof) as
  sqrt(square) * (1 + (square + 3 + (((-0.4D * square - 3.3D) * square - 24) * square - 85.5D)
                                    / (0.8D * square * square + 100 + 48 * (dof - 0.5D) * (dof - 0.5D)))
                      / (48 * (dof - 0.5D) * (dof - 0.5D)));

-- added_terms: 1 + the ratios of the second to eighth term of I_x(a, 1/2) to the first; the outermost last.
create macro added_terms(x, a) as
  aggregate(array(6, 5, 4, 3, 2, 1, 0), 1D, (sum_, k_) -> 1 + x * (a + k_ + 0.5D) / (a + k_ + 1) * sum_);

-- log_t_upper_tail: log Pr[T > t] of Student's t for t >= 0, as DuckDB's.
create macro first_log_term(log_x, a) as a * log_x - ln(2 * a) + log_gamma_half(a) - 0.5723649429247001D;
create macro log_sum_of(first, factor, rest) as
  greatest(first, rest) + ln(exp(first - greatest(first, rest)) * factor + exp(rest - greatest(first, rest)));
create macro log_t_upper_tail(t, dof) as
  element(transform(transform(array(struct(t as t_, dof as dof_, ln(1 + t * t / dof) as log_)),
                              at_ -> struct(first_log_term(-at_.log_, at_.dof_ / 2) as first_,
                                            abs(at_.t_) / sqrt(at_.dof_ + at_.t_ * at_.t_)
                                            * added_terms(at_.dof_ / (at_.dof_ + at_.t_ * at_.t_), at_.dof_ / 2) as factor_,
                                            log_upper_tail(as_normal((at_.dof_ + 15.5D) * at_.log_, at_.dof_ + 16)) as rest_)),
                    all_ -> log_sum_of(all_.first_, all_.factor_, all_.rest_)),
          1);

-- log_t_tail: log Pr[T > t] of Student's t, accurate on both sides.
create macro log_t_tail(t, dof) as
  element(transform(array(struct(t as t_, log_t_upper_tail(t, dof) as upper_)),
                    tail_ -> case when tail_.t_ >= 0 then tail_.upper_
                                  when tail_.upper_ < -15 then -exp(tail_.upper_) * (1 + exp(tail_.upper_) / 2)
                                  else ln(1 - exp(tail_.upper_)) end),
          1);

-- smallest: the n smallest values of a group as a list, ascending; an aggregate. NULLs are left out, NULL of nothing.
create macro smallest(x, n) as nullif(slice(array_sort(collect_list(x)), 1, n), array());

-- wilson_low, wilson_high: Wilson's (1927) 95% interval of a share seen in n trials; 3.841458820694124 is z squared.
create macro wilson_middle(share, n) as share + divided(3.841458820694124D, 2 * n);
create macro wilson_reach(share, n) as
  1.959963984540054D * sqrt(divided(share * (1 - share), n) + divided(3.841458820694124D, 4 * n * n));
create macro wilson_low(share, n) as
  (wilson_middle(share, n) - wilson_reach(share, n)) / (1 + divided(3.841458820694124D, n));
create macro wilson_high(share, n) as
  (wilson_middle(share, n) + wilson_reach(share, n)) / (1 + divided(3.841458820694124D, n));
