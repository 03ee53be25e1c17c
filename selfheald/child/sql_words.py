"""What DuckDB's functions and types are to a proof of sameness: the ones whose result their arguments alone decide.

Lists of what is known to be harmless. DuckDB's own word for a function's stability is not enough: it calls
``current_localtime`` consistent. Whatever is in none of these lists is not understood.
"""

from __future__ import annotations

from typing import FrozenSet


def _words(text: str) -> FrozenSet[str]:
    return frozenset(text.split())


#: One value for the same arguments, in every process, with every setting, by one version of DuckDB.
SCALARS = _words(
    """
    ! !__postfix !~~ !~~* % & && * ** + - -> ->> / // < <-> << <=> <@ = @ @> ^ ^@ >> | || ~ ~~ ~~* ~~~
    abs acos acosh add array_append array_cat array_concat array_contains array_cosine_distance
    array_cosine_similarity array_cross_product array_distance array_distinct array_dot_product array_extract
    array_filter array_has array_has_all array_has_any array_indexof array_inner_product array_intersect array_length
    array_pop_back array_pop_front array_position array_prepend array_push_back array_push_front array_resize
    array_reverse array_reverse_sort array_slice array_sort array_to_string array_transform array_unique array_value
    array_zip ascii asin asinh atan atan2 atanh bar base64 bin bit_count bit_length bit_position bitstring cardinality
    cbrt ceil ceiling century char_length character_length chr concat concat_ws constant_or_null contains cos cosh cot
    damerau_levenshtein date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day
    dayname dayofmonth dayofweek dayofyear days_in_month decade decode degrees divide editdist3 element_at encode
    ends_with epoch epoch_ms epoch_ns epoch_us equi_width_bins era error even exp factorial fdiv filter flatten floor
    fmod format formatreadabledecimalsize formatreadablesize format_bytes from_base64 from_binary from_hex gamma gcd
    generate_series get_bit greatest greatest_common_divisor hamming hash hex hour if ifnull instr isfinite isinf isnan
    isodow isoyear jaccard jaro_similarity jaro_winkler_similarity json_array json_array_length json_contains
    json_exists json_extract json_extract_path json_extract_path_text json_extract_string json_keys json_merge_patch
    json_object json_quote json_type json_valid json_value julian last_day lcase lcm least least_common_multiple left
    left_grapheme len length length_grapheme levenshtein lgamma like_escape ilike_escape not_like_escape
    not_ilike_escape list_append list_apply list_avg list_bool_and list_bool_or list_cat list_concat list_contains
    list_cosine_distance list_cosine_similarity list_count list_distance list_distinct list_dot_product list_element
    list_extract list_filter list_has list_has_all list_has_any list_indexof list_inner_product list_intersect list_max
    list_median list_min list_pack list_position list_prepend list_product list_reduce list_resize list_reverse
    list_reverse_sort list_slice list_sort list_sum list_transform list_unique list_value list_where list_zip ln log
    log10 log2 lower lpad ltrim make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns map map_concat
    map_contains map_contains_entry map_contains_value map_entries map_extract map_extract_value map_from_entries
    map_keys map_values md5 md5_number md5_number_lower md5_number_upper microsecond millennium millisecond minute
    mismatches mod month monthname multiply nanosecond nextafter nfc_normalize not_like nullif octet_length ord
    overlay parse_dirname parse_dirpath parse_filename parse_path pi position pow power prefix printf quarter radians
    range reduce regexp_escape regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace
    regexp_split_to_array repeat replace reverse right right_grapheme round round_even roundbankers row rpad rtrim
    second set_bit sha1 sha256 sign signbit sin sinh split split_part sqrt starts_with str_split str_split_regex
    strftime string_split string_split_regex string_to_array strip_accents strlen strpos struct_concat struct_extract
    struct_extract_at struct_insert struct_keys struct_pack struct_update struct_values substr substring
    substring_grapheme subtract suffix tan tanh time_bucket to_base to_base64 to_binary to_centuries to_days to_decades
    to_hex to_hours to_json to_microseconds to_millennia to_milliseconds to_minutes to_months to_quarters to_seconds
    to_weeks to_years translate trim trunc try_strptime strptime typeof ucase unbin unhex unicode union_extract
    union_tag union_value unnest unpivot_list upper url_decode url_encode version week weekday weekofyear xor year
    yearweek age apply
    """
)
#: Those of which it is certain that they are no such function.
FICKLE = _words(
    """
    ago current_connection_id current_database current_localtime current_localtimestamp current_query current_query_id
    current_schema current_schemas current_setting current_transaction_id currval gen_random_uuid get_current_time
    get_current_timestamp getenv getvariable in_search_path nextval now random setseed setval today
    transaction_timestamp txid_current uuid uuidv4 uuidv7
    """
)
#: Aggregates to which the order of their rows is nothing; ties of ``arg_min`` are the author's to avoid.
AGGREGATES = _words(
    """
    approx_count_distinct arg_max arg_max_null arg_min arg_min_null argmax argmin bit_and bit_or bit_xor bool_and
    bool_or count count_if count_star countif every histogram mad max max_by median min min_by quantile quantile_cont
    quantile_disc
    """
)
#: Exact on integers and decimals; on floating-point numbers the last digits are those of the order.
SUMS = _words("avg mean sum sum_no_overflow")
#: Floating-point arithmetic, or the choice of one row among several.
IN_ORDER = _words(
    """
    any_value arbitrary array_agg corr covar_pop covar_samp entropy favg first fsum geomean geometric_mean
    group_concat kahan_sum kurtosis kurtosis_pop last list listagg mode product regr_avgx regr_avgy regr_count
    regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy sem skewness stddev stddev_pop stddev_samp string_agg
    sumkahan var_pop var_samp variance
    """
)
#: Window functions whose result is the same for rows that are alike in the window's order.
WINDOW_BY_VALUE = _words("rank dense_rank rank_dense percent_rank cume_dist")
WINDOW_BY_ROW = _words("row_number ntile lag lead first_value last_value nth_value first last")
#: Table functions that make rows from their arguments.
ROW_MAKERS = _words("range generate_series unnest repeat_row generate_subscripts")

#: Which functions read files, with the options that change neither what is read nor let the path or the place of a row
#: into it.
_CSV = _words(
    """
    all_varchar allow_quoted_nulls auto_detect auto_type_candidates buffer_size column_names column_types columns
    comment compression dateformat decimal_separator delim delimiter dtypes encoding escape force_not_null header
    ignore_errors max_line_size maximum_line_size names new_line normalize_names null_padding nullstr parallel quote
    sample_size sep skip strict_mode thousands timestampformat types union_by_name
    """
)
_JSON = _words(
    """
    auto_detect columns compression convert_strings_to_integers dateformat field_appearance_threshold format
    ignore_errors map_inference_threshold maximum_depth maximum_object_size maximum_sample_files records sample_size
    timestampformat union_by_name
    """
)
_PARQUET = _words("binary_as_string can_have_nan compression union_by_name")
READERS = {
    **dict.fromkeys(("read_csv", "read_csv_auto"), _CSV),
    **dict.fromkeys(("read_json", "read_json_auto", "read_ndjson", "read_ndjson_auto"), _JSON),
    **dict.fromkeys(("read_parquet", "parquet_scan"), _PARQUET),
    "glob": frozenset(),
}

#: Names that stand for a function, or for a column that every file or table has, where no column goes by them.
VEILED = _words(
    """
    current_catalog current_database current_date current_localtime current_localtimestamp current_query current_role
    current_schema current_time current_timestamp current_user file_index file_last_modified file_row_number filename
    get_current_timestamp last_modified localtime localtimestamp now rowid session_user today transaction_timestamp
    user
    """
)

#: Integers, decimals and all else that adds up to the same in any order.
EXACT_TYPES = _words(
    """
    BIGINT BIT BLOB BOOL BOOLEAN BPCHAR BYTEA CHAR DATE DATETIME DEC DECIMAL HUGEINT INT INT1 INT128 INT16 INT2 INT32
    INT4 INT64 INT8 INTEGER INTEGRAL INTERVAL LOGICAL LONG NUMERIC NVARCHAR OID SHORT SIGNED SMALLINT STRING TEXT TIME
    TIMESTAMP TIMESTAMP_MS TIMESTAMP_NS TIMESTAMP_S TIMESTAMP_US TINYINT UBIGINT UHUGEINT UINT128 UINT16 UINT32 UINT64
    UINT8 UINTEGER USMALLINT UTINYINT UUID VARBINARY VARCHAR JSON
    """
)
FLOAT_TYPES = _words("DOUBLE FLOAT FLOAT4 FLOAT8 REAL")
NESTED_TYPES = _words("ARRAY LIST MAP STRUCT UNION ROW")
TYPES = EXACT_TYPES | FLOAT_TYPES | NESTED_TYPES
#: What is the type of their arguments, and what is no floating-point number whatever those are.
TYPE_OF_ARGUMENTS = _words(
    "+ - * % // abs add subtract multiply mod ifnull nullif min max first last any_value arg_min arg_max max_by min_by "
    "lag lead first_value last_value nth_value sum sum_no_overflow"
)
EXACT_RESULT = _words(
    """
    count count_star count_if countif date_diff datediff date_sub datesub datepart day dayofmonth dayofweek dayofyear
    hour instr isodow isoyear len length minute month ntile position quarter rank dense_rank row_number strlen strpos
    week weekday weekofyear year yearweek bit_count strptime make_date date_trunc concat lower upper trim substr
    substring left right replace || md5
    """
)
