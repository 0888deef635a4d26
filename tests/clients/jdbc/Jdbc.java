// What a program on JDBC sees of a Flight SQL server, one line of JSON for each request:
//
//     java --add-opens=java.base/java.nio=ALL-UNNAMED -Duser.timezone=UTC -cp DRIVER.jar Jdbc.java URL < requests
//
// A request is one line of fields with tabs between them, each encoded as in a URL:
//
//     query     SQL
//     prepared  SQL TYPE VALUE TYPE VALUE ...     one execution with these values: long, double, text, timestamp, null
//     again     TYPE VALUE ...                    the statement of the last `prepared` once more, with other values
//     update    SQL                               must be refused
//     cancel    SQL                               reads one row, cancels, reads on
//     metadata  METHOD ARGUMENT ...               a method of DatabaseMetaData that answers with rows; `null` is null
//     product                                     what it is, and what it says about itself in one value
//
// An answer is {"columns": [...], "types": [...], "rows": [[...]]}, {"values": {...}} or {"error": "...", "message": "..."}.
// The token is the environment's ISOBAR_TOKEN, shown as a password; without it nothing is shown.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.math.BigDecimal;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;

public class Jdbc {
  private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("uuuu-MM-dd'T'HH:mm:ss.SSSSSS");

  public static void main(String[] arguments) throws Exception {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    Properties properties = new Properties();
    String token = System.getenv("ISOBAR_TOKEN");
    if (token != null) {
      properties.put("user", "jdbc");
      properties.put("password", token);
    }
    BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (Connection connection = DriverManager.getConnection(arguments[0], properties)) {
      PreparedStatement last = null;
      for (String line = requests.readLine(); line != null; line = requests.readLine()) {
        List<String> request = new ArrayList<>();
        for (String field : line.split("\t", -1)) {
          request.add(URLDecoder.decode(field, StandardCharsets.UTF_8));
        }
        Object answer;
        try {
          switch (request.get(0)) {
            case "prepared":
              if (last != null) {
                last.close();
              }
              last = connection.prepareStatement(request.get(1));
              answer = execute(last, request.subList(2, request.size()));
              break;
            case "again":
              answer = execute(last, request.subList(1, request.size()));
              break;
            default:
              answer = answer(connection, request);
          }
        } catch (SQLException | RuntimeException error) {
          answer = error(error);
        }
        StringBuilder json = new StringBuilder();
        write(json, answer);
        out.println(json);
      }
      if (last != null) {
        last.close();
      }
    }
  }

  private static Object answer(Connection connection, List<String> request) throws SQLException {
    switch (request.get(0)) {
      case "query":
        try (Statement statement = connection.createStatement();
            ResultSet rows = statement.executeQuery(request.get(1))) {
          return table(rows);
        }
      case "update":
        try (Statement statement = connection.createStatement()) {
          return Map.of("values", Map.of("count", statement.executeUpdate(request.get(1))));
        }
      case "cancel":
        return cancel(connection, request.get(1));
      case "metadata":
        return metadata(connection.getMetaData(), request.subList(1, request.size()));
      case "product":
        return product(connection.getMetaData());
      default:
        throw new SQLException("there is no request " + request.get(0));
    }
  }

  private static Object execute(PreparedStatement statement, List<String> values) throws SQLException {
    for (int at = 0; at + 1 < values.size(); at += 2) {
      int position = at / 2 + 1;
      String value = values.get(at + 1);
      switch (values.get(at)) {
        case "long":
          statement.setLong(position, Long.parseLong(value));
          break;
        case "double":
          statement.setDouble(position, Double.parseDouble(value));
          break;
        case "text":
          statement.setString(position, value);
          break;
        case "timestamp":
          statement.setTimestamp(position, Timestamp.valueOf(value));
          break;
        case "null":
          statement.setNull(position, Types.NULL);
          break;
        default:
          throw new SQLException("there is no type " + values.get(at));
      }
    }
    try (ResultSet rows = statement.executeQuery()) {
      return table(rows);
    }
  }

  /** How many rows came before the end or the error that a cancelled query has. */
  private static Object cancel(Connection connection, String sql) throws SQLException {
    long count = 0;
    String ended = "whole";
    try (Statement statement = connection.createStatement()) {
      ResultSet rows = statement.executeQuery(sql);
      while (rows.next()) {
        count += 1;
        if (count == 1) {
          statement.cancel();
        }
      }
    } catch (SQLException | RuntimeException error) {
      ended = "error";
    }
    return Map.of("values", Map.of("rows", count, "ended", ended));
  }

  /** Calls a method that has as many parameters as there are arguments; texts, arrays of texts, and numbers. */
  private static Object metadata(DatabaseMetaData metadata, List<String> request) throws SQLException {
    List<String> texts = request.subList(1, request.size());
    for (Method method : DatabaseMetaData.class.getMethods()) {
      Class<?>[] parameters = method.getParameterTypes();
      if (!method.getName().equals(request.get(0)) || parameters.length != texts.size()) {
        continue;
      }
      Object[] arguments = new Object[parameters.length];
      for (int at = 0; at < parameters.length; at++) {
        String text = texts.get(at).equals("null") ? null : texts.get(at);
        if (parameters[at] == String[].class) {
          arguments[at] = text == null ? null : text.split(",");
        } else if (parameters[at] == boolean.class) {
          arguments[at] = Boolean.valueOf(text);
        } else if (parameters[at] == int.class) {
          arguments[at] = Integer.valueOf(text);
        } else {
          arguments[at] = text;
        }
      }
      try (ResultSet rows = (ResultSet) call(metadata, method, arguments)) {
        return table(rows);
      }
    }
    throw new SQLException("there is no method " + request);
  }

  /** The values of every method that takes nothing and does not answer with rows; of one that fails, why. */
  private static Object product(DatabaseMetaData metadata) {
    Map<String, Object> values = new TreeMap<>();
    for (Method method : DatabaseMetaData.class.getMethods()) {
      Class<?> type = method.getReturnType();
      boolean isPlain = type == String.class || type == boolean.class || type == int.class || type == long.class;
      if (method.getParameterCount() == 0 && isPlain) {
        try {
          values.put(method.getName(), call(metadata, method));
        } catch (SQLException error) {
          values.put(method.getName(), Map.of("error", String.valueOf(error.getMessage())));
        }
      }
    }
    return Map.of("values", values);
  }

  private static Object call(DatabaseMetaData metadata, Method method, Object... arguments) throws SQLException {
    try {
      return method.invoke(metadata, arguments);
    } catch (InvocationTargetException failure) {
      Throwable cause = failure.getCause();
      throw new SQLException(method.getName() + ": " + cause, cause);
    } catch (IllegalAccessException failure) {
      throw new SQLException(method.getName() + ": " + failure, failure);
    }
  }

  private static Map<String, Object> error(Exception error) {
    StringBuilder message = new StringBuilder();
    for (Throwable cause = error; cause != null; cause = cause.getCause()) {
      message.append(cause.getMessage()).append('\n');
    }
    Map<String, Object> answer = new LinkedHashMap<>();
    answer.put("error", error.getClass().getSimpleName());
    answer.put("message", message.toString());
    return answer;
  }

  private static Map<String, Object> table(ResultSet rows) throws SQLException {
    ResultSetMetaData about = rows.getMetaData();
    List<Object> columns = new ArrayList<>();
    List<Object> types = new ArrayList<>();
    for (int column = 1; column <= about.getColumnCount(); column++) {
      columns.add(about.getColumnLabel(column));
      types.add(about.getColumnTypeName(column));
    }
    List<Object> values = new ArrayList<>();
    while (rows.next()) {
      List<Object> row = new ArrayList<>();
      for (int column = 1; column <= about.getColumnCount(); column++) {
        row.add(kept(value(rows, column)));
      }
      values.add(row);
    }
    // The driver (18.3.0) names the columns of an answer without rows twice, whatever the server sends.
    int half = columns.size() / 2;
    if (values.isEmpty() && columns.subList(0, half).equals(columns.subList(half, columns.size()))) {
      columns = columns.subList(0, half);
      types = types.subList(0, half);
    }
    Map<String, Object> table = new LinkedHashMap<>();
    table.put("columns", columns);
    table.put("types", types);
    table.put("rows", values);
    return table;
  }

  /** The driver (18.3.0) has no `getObject` for times with a zone. */
  private static Object value(ResultSet rows, int column) throws SQLException {
    if (rows.getMetaData().getColumnType(column) == Types.TIMESTAMP_WITH_TIMEZONE) {
      return rows.getTimestamp(column);
    }
    return rows.getObject(column);
  }

  /** A value that outlives its row: an array of the driver reads the memory of the batch that it came in. */
  private static Object kept(Object value) throws SQLException {
    if (value instanceof java.sql.Array) {
      return kept(((java.sql.Array) value).getArray());
    }
    if (value instanceof Object[]) {
      List<Object> items = new ArrayList<>();
      for (Object item : (Object[]) value) {
        items.add(kept(item));
      }
      return items;
    }
    return value;
  }

  private static void write(StringBuilder json, Object value) throws SQLException {
    if (value == null || value instanceof Boolean) {
      json.append(value);
    } else if (value instanceof Double || value instanceof Float) {
      double number = ((Number) value).doubleValue();
      if (Double.isNaN(number) || Double.isInfinite(number)) {
        quote(json, Double.toString(number));
      } else {
        // Not `number`: a float is written with its own digits.
        json.append(value);
      }
    } else if (value instanceof BigDecimal) {
      quote(json, ((BigDecimal) value).toPlainString());
    } else if (value instanceof Number) {
      json.append(value);
    } else if (value instanceof Timestamp) {
      quote(json, ((Timestamp) value).toLocalDateTime().format(TIME));
    } else if (value instanceof Date || value instanceof Time) {
      quote(json, value.toString());
    } else if (value instanceof byte[]) {
      StringBuilder hexadecimal = new StringBuilder();
      for (byte octet : (byte[]) value) {
        hexadecimal.append(String.format("%02x", octet));
      }
      quote(json, hexadecimal.toString());
    } else if (value instanceof Map) {
      String separator = "{";
      for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
        json.append(separator);
        quote(json, String.valueOf(entry.getKey()));
        json.append(':');
        write(json, entry.getValue());
        separator = ",";
      }
      json.append(separator.equals("{") ? "{}" : "}");
    } else if (value instanceof List) {
      String separator = "[";
      for (Object item : (List<?>) value) {
        json.append(separator);
        write(json, item);
        separator = ",";
      }
      json.append(separator.equals("[") ? "[]" : "]");
    } else {
      quote(json, value.toString());
    }
  }

  private static void quote(StringBuilder json, String text) {
    json.append('"');
    for (char character : text.toCharArray()) {
      if (character == '"' || character == '\\') {
        json.append('\\').append(character);
      } else if (character < ' ') {
        json.append(String.format("\\u%04x", (int) character));
      } else {
        json.append(character);
      }
    }
    json.append('"');
  }
}
