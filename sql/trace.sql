-- Any aggregate of any trace; LT-IQR is signal 'loss' with aggregate 'iqr'.
-- Parameters: $target     [run]  whose trace
--             $source     ['eval', 'train'; default select case when bool_and(source = 'train') then 'train' else 'eval' end
--                         from traces where run = $target]  by a pass after each epoch, or inside the steps
--             $signal     ['loss', 'grad_norm', 'margin', 'probability', 'error', 'held-loss'; default 'loss']  which trace;
--                         probability is exp(-loss), error is 1 - exp(-loss), held-loss is 4 (1 - exp(-loss / 4))
--             $aggregate  ['iqr', 'mean', 'std', 'final', 'max', 'delta', 'ratio', 'slope', 'l1', 'l2', 'l3', 'l4', 'linf',
--                         'first-below', 'first-half-minus-final', 'early-minus-final', 'forgets'; default 'iqr']  what to make
--                         of it
--             $first      [whole number; default 0]  first epoch to look at; 0 is before training
--             $last       [whole number; default 1000000]  last epoch to look at
--             $low        [share; default 0.25]  lower quantile of 'iqr'
--             $high       [share; default 0.75]  upper quantile of 'iqr'
--             $direction  [1, -1; default select case when $signal in ('margin', 'probability') and $aggregate not in ('iqr', 'std',
--                         'slope', 'forgets') or $signal not in ('margin', 'probability') and $aggregate = 'slope' then -1
--                         else 1 end]  makes a higher score mean more exposed
-- Grain: one row a sample of the audit pool that the trace has; value is the aggregate, score is it with its
-- direction. Epochs not recorded are left out; a trace with a value that is not finite has no score.
with windows as (
  select sample_id, member,
         (case $signal
            when 'loss' then loss
            when 'grad_norm' then grad_norm
            when 'margin' then margin
            when 'probability' then list_transform(loss::double[], lambda value: exp(-value))
            when 'held-loss' then list_transform(loss::double[], lambda value: 4 * (1 - exp(-value / 4)))
            else list_transform(loss::double[], lambda value: 1 - exp(-value))
          end)[$first + 1 : $last + 1] as span
  from traces
  where run = $target and source = $source
),
recorded as (
  -- Functions of a list pass over NULL; only those that go by position need the epochs not recorded left out.
  select sample_id, member, span,
         list_filter(span, lambda value: value is not null)::double[] as trace
  from windows
),
aggregates as (
  select sample_id, member, isfinite(list_sum(span)) as finite,
         case $aggregate
           when 'iqr' then quantile_range(span, $low, $high)
           when 'mean' then list_avg(span)
           when 'std' then list_stddev_pop(span)
           when 'final' then trace[-1]
           when 'max' then list_max(span)::double
           when 'delta' then trace[array_length(trace) // 2 + 1] - trace[-1]
           when 'ratio' then 1 - trace[-1] / trace[array_length(trace) // 2 + 1]
           when 'slope' then trace_slope(span)
           when 'l1' then power_norm(span::double[], 1)
           when 'l2' then power_norm(span::double[], 2)
           when 'l3' then power_norm(span::double[], 3)
           when 'l4' then power_norm(span::double[], 4)
           when 'linf' then list_max(list_transform(span::double[], lambda value: abs(value)))
           when 'first-below' then $first + first_at_most(span, 1e-6 * trace[1])
           when 'first-half-minus-final' then list_avg(trace[1 : greatest(array_length(trace) // 2, 1)]) - trace[-1]
           when 'early-minus-final' then list_avg(trace[1 : greatest((4 * array_length(trace) + 5) // 10, 1)]) - trace[-1]
           when 'forgets' then times_lost(trace)
         end as value
  from recorded
),
audited as (
  -- After the traces have become numbers: of what it joins, an engine may hold either side in memory.
  select aggregates.sample_id, member, finite, value
  from aggregates
  join samples on samples.sample_id = aggregates.sample_id and samples.pool = 'audit'
)
select sample_id, member,
       case when finite and isfinite(value) then $direction * value end as score,
       value
from audited
order by sample_id
