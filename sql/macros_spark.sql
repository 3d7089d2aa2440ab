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
